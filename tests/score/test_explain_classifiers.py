"""Classifiers of one's own explained: every shape, through its own classifier and label map, up to the method's gap."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from score import shapes
from tokenizers import Tokenizer as FastTokenizer
from transformers import AutoModelForSequenceClassification

from services.score import artifact, gradients
from services.score.base import LOGITS, Encoding, find
from services.score.engine import Engine, embed, open_runtime
from services.score.explain import Explainer, Explanation
from services.score.features import Logits
from services.score.head import Head, softmax
from services.score.labels import label_map, own_labels
from services.stream.errors import Rejected
from services.stream.events import LABELS, Label

TEXTS = [text for text in shapes.SHORT if len(set(text.split())) == 5][:3]
CHINESE = "公司利润上涨"


@pytest.fixture(autouse=True)
def more_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights ten times as large as usual bend the path more than a trained model does."""
    monkeypatch.setattr(gradients, "STEPS", 256)


def serving(folder: Path, cache: Path, chosen: Mapping[str, str] | None = None) -> Engine:
    runtime = open_runtime(Encoding(find(str(folder)), export=LOGITS), device="cpu", cache=cache)
    head = label_map(own_labels(folder), chosen or {})
    examples = dict(zip(artifact.EXAMPLES, embed(runtime, artifact.EXAMPLES), strict=True))
    model = artifact.make(
        head, 1.0, runtime.encoding, dataset="", parent=None, metrics={}, examples=examples, languages=()
    )
    return Engine(runtime, model)


def transformers_own(folder: Path, text: str) -> np.ndarray:
    """The classifier's own probabilities float64[k]."""
    ids = FastTokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    with torch.inference_mode():
        logits = AutoModelForSequenceClassification.from_pretrained(folder).eval()(torch.tensor([ids])).logits
    found: np.ndarray = softmax(logits.numpy(), 1.0)[0]
    return found


def log_odds(p: float) -> float:
    return float(np.log(p / (1 - p)))


def closes(found: Explanation) -> bool:
    """Whether attributions sum to what is explained, up to what the steps leave."""
    difference = found.value - found.baseline
    total = sum(attribution for _, attribution in found.words)
    return total == pytest.approx(difference + found.gap) and abs(found.gap) < max(0.05 * abs(difference), 0.1)


@pytest.fixture(scope="module", params=list(shapes.CONFIGS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes.make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def engine(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return serving(folder, tmp_path_factory.mktemp("cache"))


def test_its_own_answer_is_explained_and_adds_up(folder: Path, engine: Engine) -> None:
    explainer = Explainer()
    for text in TEXTS:
        own = dict(zip(shapes.LABELS.values(), transformers_own(folder, text), strict=True))
        for label in LABELS:
            found = explainer.explain(engine, text, label)
            assert found.value == pytest.approx(log_odds(own[label]), abs=1e-3)
            assert found.fp32_label == max(own, key=own.__getitem__)
            assert closes(found), found
            assert [text[word.start : word.end] for word, _ in found.words] == text.split()
            assert any(attribution for _, attribution in found.words)


def test_several_own_labels_that_count_as_one_are_explained_as_one(folder: Path, tmp_path: Path) -> None:
    engine = serving(folder, tmp_path, {"neutral": "negative"})
    positive, *rest = transformers_own(folder, TEXTS[0])
    explainer = Explainer()
    found = explainer.explain(engine, TEXTS[0], "negative")
    assert found.value == pytest.approx(log_odds(sum(rest)), abs=1e-3)
    assert closes(found)
    assert explainer.explain(engine, TEXTS[0], "positive").value == pytest.approx(log_odds(positive), abs=1e-3)
    with pytest.raises(Rejected, match="never answers neutral"):
        explainer.explain(engine, TEXTS[0], "neutral")
    always: dict[str, Label] = dict.fromkeys(shapes.LABELS.values(), "positive")
    with pytest.raises(Rejected, match="always answers positive"):
        explainer.explain(serving(folder, tmp_path, always), TEXTS[0])


def test_one_that_takes_no_embeddings_says_so(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> torch.Tensor:
        raise NotImplementedError("no inputs_embeds")

    explainer = Explainer()
    explainer.explain(engine, TEXTS[0])
    of_embedded = Logits.of_embedded
    monkeypatch.setattr(Logits, "of_embedded", refused)
    with pytest.raises(Rejected, match="can't be given embeddings: no inputs_embeds"):
        explainer.explain(engine, TEXTS[0])
    monkeypatch.setattr(Logits, "of_embedded", lambda *given: of_embedded(*given) * 1.1)
    with pytest.raises(Rejected, match="logits are off by"):
        explainer.explain(engine, TEXTS[0])


def test_a_head_over_its_encoder_is_explained_too(folder: Path, tmp_path: Path) -> None:
    """As the first challenger of such a champion is."""
    runtime = open_runtime(Encoding(find(str(folder))), device="cpu", cache=tmp_path)
    features = embed(runtime, list(artifact.EXAMPLES))
    random = np.random.default_rng(1)
    parts = [features.mean(0), features.std(0) + 1e-3]
    parts += [random.normal(0, 0.2, shape) for shape in ((features.shape[1], 8), (8,), (8, 3), (3,))]
    head = Head(*(part.astype(np.float32) for part in parts))
    model = artifact.make(
        head, 1.0, runtime.encoding, dataset="", parent=None, metrics={},
        examples=dict(zip(artifact.EXAMPLES, features, strict=True)), languages=(),
    )  # fmt: skip
    found = Explainer().explain(Engine(runtime, model), TEXTS[0])
    assert closes(found) and any(attribution for _, attribution in found.words)


def test_chinese_is_explained_token_by_token(tmp_path: Path) -> None:
    """XLM-R's tokenizer takes a sentence without spaces for one word."""
    engine = serving(shapes.make("xlm-roberta", tmp_path), tmp_path / "cache")
    text = f"Profit {CHINESE} rises"
    found = Explainer().explain(engine, text)
    assert [text[word.start : word.end] for word, _ in found.words] == ["Profit", *CHINESE, "rises"]
    assert closes(found)
