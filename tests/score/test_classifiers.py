"""Sequence classifiers of every shape: their own answers, whatever stands beside a text, through the label map."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from score import shapes
from tokenizers import Tokenizer as FastTokenizer
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel

from services.score import artifact, export
from services.score.base import EXPORT, LOGITS, Encoding, Untraceable, exported, find
from services.score.engine import Engine, OnnxEncoder, Runtime, Scored, embed, open_engine, open_runtime
from services.score.head import softmax, to_bytes
from services.score.labels import LabelMap, from_bytes, label_map, own_labels
from services.score.tokens import most_tokens
from services.stream.errors import Misconfigured, Rejected
from services.stream.events import LABELS
from services.trainer.anchors import anchors

TEXTS = [*shapes.SHORT, *(anchor.text for anchor in anchors()[:8]), " ".join(a.text for a in anchors()[:12]), "Profit"]


@pytest.fixture(scope="module", params=list(shapes.CONFIGS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes.make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def runtime(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    encoding = Encoding(find(str(folder)), export=LOGITS)
    return open_runtime(encoding, device="cpu", cache=tmp_path_factory.mktemp("cache"))


def transformers_own(folder: Path, texts: list[str], most: int) -> np.ndarray:
    """Probabilities float64[n, k] of each text alone, as transformers gives them."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    fast = FastTokenizer.from_file(str(folder / "tokenizer.json"))
    fast.enable_truncation(most)
    with torch.inference_mode():
        logits = [model(input_ids=torch.tensor([fast.encode(text).ids])).logits.numpy() for text in texts]
    return softmax(np.concatenate(logits), 1.0)


def served(runtime: Runtime) -> Engine:
    head = label_map(own_labels(runtime.encoding.base.folder), {})
    examples = dict(zip(artifact.EXAMPLES, embed(runtime, artifact.EXAMPLES), strict=True))
    model = artifact.make(
        head, 1.0, runtime.encoding, dataset="", parent=None, metrics={}, examples=examples, languages=()
    )
    return Engine(runtime, model)


def test_it_answers_as_transformers_does(folder: Path, runtime: Runtime) -> None:
    assert isinstance(runtime.lanes.encoder, OnnxEncoder)
    wanted = transformers_own(folder, TEXTS, most_tokens(folder))
    own = [list(shapes.LABELS.values()).index(label) for label in LABELS]
    wanted = wanted[:, own]
    assert len(set(wanted.argmax(axis=1))) == 3, "answers that are all one show nothing"
    scored = served(runtime).score(TEXTS)
    found = np.array([one.probabilities for one in scored if isinstance(one, Scored)])
    # Of layers this narrow int8 leaves less than of real ones.
    assert np.abs(found - wanted).mean() < 0.05
    second, first = np.sort(wanted, axis=1)[:, 1:].T
    sure = first - second > 0.25
    assert sure.sum() > 20 and np.mean((found.argmax(axis=1) == wanted.argmax(axis=1))[sure]) > 0.95


def test_a_texts_answer_is_the_same_alone_and_padded(runtime: Runtime) -> None:
    together = embed(runtime, TEXTS)
    alone = np.concatenate([embed(runtime, [text]) for text in TEXTS])
    assert np.abs(together - alone).max() < 1e-4


def test_torch_gives_the_same_padded(folder: Path, runtime: Runtime) -> None:
    """What a GPU runs, in fp32."""
    from services.score.batching import BUDGET
    from services.score.features import TorchEncoder
    from services.score.lanes import Lanes

    exact = runtime._replace(lanes=Lanes(TorchEncoder(runtime.encoding, "cpu"), BUDGET, 1))
    wanted = transformers_own(folder, TEXTS, most_tokens(folder))
    assert np.abs(softmax(embed(exact, TEXTS), 1.0) - wanted).max() < 1e-4


def test_it_reads_no_more_than_it_has_places_for(folder: Path, runtime: Runtime) -> None:
    most = most_tokens(folder)
    assert most == shapes.PLACES - (2 if folder.name.startswith(("roberta", "xlm")) else 0)
    fits, cut = served(runtime).score([" ".join(["Profit"] * n) for n in (most - 2, most - 1)])
    assert isinstance(fits, Scored) and isinstance(cut, Scored)
    assert (fits.truncated, cut.truncated) == (False, True)
    assert fits.probabilities == pytest.approx(cut.probabilities, abs=1e-5)


def test_it_is_saved_and_served_again(runtime: Runtime, tmp_path: Path) -> None:
    engine = served(runtime)
    artifact.save(engine.model, tmp_path)
    again = open_engine(tmp_path, share=engine)
    assert again.runtime is runtime and again.card == engine.card
    assert again.card.export == LOGITS and isinstance(again.model.head, LabelMap)
    assert Encoding(runtime.encoding.base).key != runtime.key


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes.make("bert", tmp_path_factory.mktemp("bert"), {0: "LABEL_0", 1: "LABEL_1"})


def test_what_cannot_be_traced_runs_by_torch_and_says_so(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encoding = Encoding(find(str(bert)), export=LOGITS)
    monkeypatch.setattr(export, "difference", lambda *_: 0.5)
    with pytest.raises(Untraceable, match="is off by"):
        exported(encoding, tmp_path)
    runtime = open_runtime(encoding, device="cpu", cache=tmp_path)
    assert "torch runs it in fp32" in caplog.text
    wanted = transformers_own(bert, TEXTS, 64)
    assert np.abs(softmax(embed(runtime, TEXTS), 1.0) - wanted).max() < 1e-4


def test_a_wrong_trace_is_noticed(bert: Path) -> None:
    from services.score.features import module_of

    encoding = Encoding(find(str(bert)), export=LOGITS)
    graph, module = export.traced(encoding), module_of(encoding, "eager", torch.float32)
    assert export.difference(graph, module) < export.CLOSE / 10
    module.get_parameter("classifier.classifier.bias").data += 0.1
    assert export.difference(graph, module) > export.CLOSE


def test_an_encoder_alone_is_no_classifier(tmp_path: Path) -> None:
    size = shapes.tokenizer("bert", tmp_path)
    BertModel(BertConfig(vocab_size=size, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)).save_pretrained(
        tmp_path
    )
    with pytest.raises(Misconfigured, match=r"no sequence classifier: it lacks classifier\.bias, classifier\.weight"):
        open_runtime(Encoding(find(str(tmp_path)), export=LOGITS), device="cpu", cache=tmp_path)


def test_labels_that_say_what_they_mean_need_no_map() -> None:
    found = label_map(("Bullish", "neutral ", "NEGATIVE"), {})
    assert found.label_map.tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]


def test_several_labels_may_count_as_one() -> None:
    chosen = {"very negative": "negative", "very positive": "positive"}
    head = label_map(("very negative", "negative", "neutral", "positive", "very positive"), chosen)
    logits = np.log(np.array([[0.3, 0.25, 0.1, 0.2, 0.15]], np.float32))
    assert head.probabilities(logits, 1.0)[0] == pytest.approx([0.55, 0.1, 0.35])


def test_of_two_classes_neutral_gets_nothing() -> None:
    head = label_map(("NEGATIVE", "POSITIVE"), {})
    assert head.probabilities(np.array([[0, 2]], np.float32), 1.0)[0] == pytest.approx([0.1192, 0, 0.8808], abs=1e-4)


def test_a_label_without_a_meaning_is_asked_for(bert: Path) -> None:
    own = own_labels(bert)
    assert own == ("LABEL_0", "LABEL_1")
    with pytest.raises(
        Misconfigured, match=r"labels are LABEL_0, LABEL_1; say .*--label-map '\{\"LABEL_0\":\"negative"
    ):
        label_map(own, {"LABEL_0": "negative"})
    with pytest.raises(Misconfigured, match="has no label LABEL_7; it has LABEL_0, LABEL_1"):
        label_map(own, {"LABEL_0": "negative", "LABEL_1": "positive", "LABEL_7": "neutral"})
    with pytest.raises(Misconfigured, match="say which of"):
        label_map(own, {"LABEL_0": "negative", "LABEL_1": "good"})


def test_labels_that_do_not_exclude_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"problem_type": "multi_label_classification"}')
    with pytest.raises(Misconfigured, match="don't exclude each other"):
        own_labels(tmp_path)
    (tmp_path / "config.json").write_text('{"id2label": {"0": "score"}}')
    with pytest.raises(Misconfigured, match="at least 2"):
        own_labels(tmp_path)


def test_only_maps_are_read() -> None:
    good = label_map(("negative", "positive"), {})
    assert np.array_equal(from_bytes(to_bytes(good)).label_map, good.label_map)
    for bad in (good.label_map[:, :2], good.label_map * 2, good.label_map.astype(np.float64), good.label_map * 0):
        with pytest.raises(Rejected, match="tampered"):
            from_bytes(to_bytes(LabelMap(bad)))
    with pytest.raises(Rejected, match="not a label map"):
        from_bytes(b"\x80\x04K\x01.")  # a pickle


def test_a_head_is_no_label_map(runtime: Runtime, tmp_path: Path) -> None:
    """A card whose export is changed names another version, and with it the file is another kind of head."""
    artifact.save(served(runtime).model, tmp_path)
    card = artifact.load(tmp_path).card
    version = artifact.version_of(
        card.head, card.adapter, card.base, EXPORT, card.labels, card.temperature, card.languages
    )
    changed = msgspec.to_builtins(card) | {"export": EXPORT, "version": version}
    (tmp_path / artifact.CARD).write_bytes(msgspec.json.encode(changed))
    with pytest.raises(Rejected, match="not a head"):
        artifact.load(tmp_path)
