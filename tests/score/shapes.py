"""Tiny sequence classifiers of random weights, one of each shape, with tokenizers of whole words or of characters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from services.trainer.anchors import anchors

LABELS: Final = {0: "positive", 1: "negative", 2: "neutral"}
"""In another order than ours."""
PLACES: Final = 64
"""Positions that each of them has; RoBERTa and its like use two less."""
SPECIAL: Final = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
SHORT: Final = [" ".join(anchor.text.split()[:5]) for anchor in anchors()[:50]]
CHINESE: Final = "公司股价利润上涨下跌亏损增长大"
_WIDTH: Final = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": PLACES,
    "pad_token_id": 1,
    "initializer_range": 0.2,
}
"""Weights ten times as large as usual, so that texts differ."""
CONFIGS: Final[Mapping[str, Any]] = {
    "bert": lambda **more: BertConfig(**{**_WIDTH, **more}),
    "distilbert": lambda **more: DistilBertConfig(
        dim=32, n_layers=3, n_heads=2, hidden_dim=64, max_position_embeddings=PLACES, pad_token_id=1,
        initializer_range=0.2, **more,
    ),
    "roberta": lambda **more: RobertaConfig(**{**_WIDTH, **more}),
    "xlm-roberta": lambda **more: XLMRobertaConfig(**{**_WIDTH, **more}),
    "deberta-v2": lambda **more: DebertaV2Config(
        **{**_WIDTH, **more}, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=16,
        norm_rel_ebd="layer_norm", share_att_key=True, position_biased_input=False, type_vocab_size=0,
    ),
}  # fmt: skip


def make(shape: str, folder: Path, labels: Mapping[int, str] = LABELS, **config: Any) -> Path:
    """Write such a classifier to `folder`."""
    vocabulary = tokenizer(shape, folder)
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_config(
        CONFIGS[shape](
            vocab_size=vocabulary, id2label=dict(labels), label2id={n: i for i, n in labels.items()}, **config
        )
    )
    _spread(model, folder)
    model.save_pretrained(folder, safe_serialization=True)
    return folder


def _spread(model: Any, folder: Path) -> None:
    """Random weights hardly tell texts apart: let each logit have mean 0 and deviation 2 over short texts."""
    fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [fast.encode(text).ids for text in SHORT]
    with torch.inference_mode():
        logits = torch.cat([model.eval()(input_ids=torch.tensor([found])).logits for found in ids])
    last = getattr(model.classifier, "out_proj", model.classifier)
    last.weight.data *= (2 / logits.std(0))[:, None]
    last.bias.data = -logits.mean(0) * 2 / logits.std(0)


ANCHORED: Final = tuple(sorted({word for anchor in anchors() for word in anchor.text.split()}))


def tokenizer(shape: str, folder: Path, words: Sequence[str] = ANCHORED) -> int:
    """Write `tokenizer.json`; the size of its vocabulary. XLM-R's reads Chinese, character by character."""
    pieces = [*SPECIAL, *words, *CHINESE]
    if shape == "xlm-roberta":
        pieces = [*SPECIAL, "▁", *(f"▁{word}" for word in words), *sorted({c for w in words for c in w}), *CHINESE]
        pieces = list(dict.fromkeys(pieces))
        made = Tokenizer(models.Unigram([(piece, -len(piece) / 100) for piece in pieces], unk_id=3))
        made.pre_tokenizer = pre_tokenizers.Metaspace()
    else:
        made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(pieces)}, unk_token="<unk>"))  # noqa: S106
        made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    made.save(str(folder / "tokenizer.json"))
    return len(pieces)
