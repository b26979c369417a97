"""Explanations: they add up, point at the words that count, say where these stand, and come from one model."""

from __future__ import annotations

import gc
import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError
from math import exp, isfinite, log
from pathlib import Path

import numpy as np
import pytest

from services.score import features, gradients
from services.score.artifact import Model
from services.score.engine import Engine, Scored
from services.score.explain import Explainer, Explanation
from services.score.features import Features, TorchEncoder
from services.score.gradients import Gradients
from services.score.lanes import padded
from services.score.tokens import MAX_TOKENS, Tokenizer, Word
from services.stream.errors import Rejected
from services.stream.events import LABELS, Label
from services.trainer.anchors import anchors

TEXT = "Norvik's profit soared, but it warned of weak demand"
MASK = 103
"""In the bundled encoder's vocabulary."""


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer()


def log_odds(scored: Scored | Rejected, label: Label) -> float:
    assert isinstance(scored, Scored)
    p = scored.probabilities[LABELS.index(label)]
    return log(p / (1 - p))


def total(found: Explanation) -> float:
    return sum(attribution for _, attribution in found.words)


def test_attributions_sum_to_the_difference_but_for_the_gap(engine: Engine, explainer: Explainer) -> None:
    for text in [TEXT, *(anchor.text for anchor in anchors()[:4])]:
        found = explainer.explain(engine, text)
        difference = found.value - found.baseline
        assert total(found) == pytest.approx(difference + found.gap)
        assert abs(found.gap) < max(0.05 * abs(difference), 0.1)
        assert found.relative_gap == pytest.approx(found.gap / difference)


def test_values_are_those_of_the_fp32_model(engine: Engine, explainer: Explainer) -> None:
    found = explainer.explain(engine, TEXT)
    encoding = engine.runtime.encoding
    ids, words = engine.runtime.tokenizer.words(TEXT)
    inside = {place for word in words for place in word.pieces}
    nothing = [MASK if place in inside else token for place, token in enumerate(ids)]
    features = TorchEncoder(encoding, "cpu").run(*padded([ids, nothing]))
    p = engine.probabilities(features)[:, LABELS.index(found.explained)]
    assert (found.value, found.baseline) == pytest.approx(np.log(p / (1 - p)), abs=1e-3)


def test_without_its_most_important_words_a_text_loses_its_label(engine: Engine, explainer: Explainer) -> None:
    """Comprehensiveness (DeYoung et al. 2020, "ERASER"): against as many words taken out at random."""
    random = np.random.default_rng(1)
    chosen, others = [], []
    for text in (anchor.text for anchor in anchors()[:300:15]):
        (whole,) = engine.score([text])
        assert isinstance(whole, Scored)
        if whole.label == "neutral":
            continue
        words = engine.runtime.tokenizer.words(text)[1]
        attributions = [value for _, value in explainer.explain(engine, text).words]
        order = np.argsort(attributions)[::-1]
        taken = [order[:3], *(random.permutation(len(words))[:3] for _ in range(8))]
        left = engine.score([without(text, [words[place] for place in places]) for places in taken])
        lost = [log_odds(whole, whole.label) - log_odds(scored, whole.label) for scored in left]
        chosen.append(lost[0])
        others.append(np.mean(lost[1:]))
    assert len(chosen) >= 8
    assert np.mean(np.array(chosen) > np.array(others)) >= 0.75
    assert np.mean(chosen) > 2 * np.mean(others)


def without(text: str, words: Sequence[Word]) -> str:
    for word in sorted(words, key=lambda word: -word.start):
        text = text[: word.start] + text[word.end :]
    return text


def test_any_label_may_be_explained(engine: Engine, explainer: Explainer) -> None:
    found = {label: explainer.explain(engine, TEXT, label) for label in LABELS}
    assert sum(1 / (1 + exp(-one.value)) for one in found.values()) == pytest.approx(1)
    assert {one.explained for one in found.values()} == set(LABELS)
    assert {one.fp32_label for one in found.values()} == {max(found, key=lambda label: found[label].value)}
    unasked = explainer.explain(engine, TEXT)
    assert unasked.explained == unasked.scored.label
    assert unasked.value == pytest.approx(found[unasked.explained].value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t",
        "!",
        "🚀🚀 to the moon 👩‍👩‍👧 €5",
        "股价大跌 3.5%，净利润增长",
        "a\0b\u202ec cafe\u0301",
        "[CLS] [SEP] [MASK]",
    ],
)
def test_offsets_slice_the_text_into_its_words(engine: Engine, explainer: Explainer, text: str) -> None:
    found = explainer.explain(engine, text)
    end = 0
    for word, attribution in found.words:
        assert end <= word.start < word.end <= len(text)
        assert text[word.start : word.end].strip()
        assert isfinite(attribution)
        end = word.end
    assert bool(found.words) == bool(text.strip())
    assert isfinite(found.value) and isfinite(found.baseline)
    assert (found.relative_gap is None) == (found.value == found.baseline)


def test_words_are_whole_and_tokens_those_that_are_scored(engine: Engine) -> None:
    ids, words = engine.runtime.tokenizer.words(TEXT)
    (scored,) = engine.runtime.tokenizer([TEXT])
    assert not isinstance(scored, Rejected)
    assert ids == scored.ids
    assert [TEXT[word.start : word.end] for word in words] == [
        "Norvik", "'", "s", "profit", "soared", ",", "but", "it", "warned", "of", "weak", "demand",
    ]  # fmt: skip
    assert len(words[0].pieces) > 1
    assert [place for word in words for place in word.pieces] == list(range(1, len(ids) - 1))


def test_of_a_long_text_the_start_is_explained(
    engine: Engine, explainer: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients, "STEPS", 4)
    found = explainer.explain(engine, "profit " * 2_800)
    assert found.scored.truncated
    assert len(found.words) == MAX_TOKENS - 2


def test_what_cannot_be_tokenised_cannot_be_explained(engine: Engine, explainer: Explainer) -> None:
    with pytest.raises(Rejected, match="tokenizer"):
        explainer.explain(engine, "half a pair \ud83d")


def test_what_is_given_up_stops_between_steps(engine: Engine, explainer: Explainer) -> None:
    given_up = threading.Event()
    explainer.explain(engine, TEXT, None, given_up)
    given_up.set()
    with pytest.raises(CancelledError):
        explainer.explain(engine, TEXT, None, given_up)


def test_of_a_text_in_windows_the_first_is_explained(
    engine: Engine, explainer: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients, "STEPS", 4)
    tokenizer = Tokenizer(engine.runtime.encoding.base.folder, "windows")
    windowed = Engine(engine.runtime._replace(tokenizer=tokenizer), engine.model)
    start = "The annual general meeting of the company will be held on 12 May in Budapest . " * 14
    text = start + "Kestrel Air shares soar to a record high after it wins a big contract . " * 40
    found, first = explainer.explain(windowed, text), explainer.explain(engine, text, "positive")
    assert (found.scored.label, found.scored.truncated, found.explained) == ("positive", False, "positive")
    assert (found.value, found.words, found.fp32_label) == (first.value, first.words, "neutral")


def test_one_model_is_held_loaded_once_and_dropped_for_another(
    engine: Engine, stubborn: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Path] = []

    class Counted(Features):
        def __init__(self, folder: Path, *rest: object) -> None:
            loads.append(folder)
            super().__init__(folder, *rest)  # type: ignore[arg-type]

    def held() -> int:
        return sum(type(thing) is Gradients for thing in gc.get_objects())

    before = held()
    monkeypatch.setattr(features, "Features", Counted)
    explainer, other = Explainer(), Engine(engine.runtime, stubborn)
    for _ in range(2):
        explainer.explain(engine, "up")
    assert (len(loads), held()) == (1, before + 1)
    found = explainer.explain(other, "down")
    assert (len(loads), held()) == (2, before + 1)
    assert (found.explained, total(found), found.gap, found.relative_gap) == ("positive", 0, 0, None)
    del other
    assert held() == before
