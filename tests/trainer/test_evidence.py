"""What the gate is given to judge by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

from services.trainer import evidence
from services.trainer.dataset import Dataset, Labelled
from services.trainer.evidence import Side


class FakeRuntime(NamedTuple):
    key: str


class ByLetters(NamedTuple):
    """Positive where the text's first letter is a capital, else negative; as sure as the temperature is low."""

    def probabilities(self, features: np.ndarray, temperature: float) -> np.ndarray:
        found = np.full((len(features), 3), 0.05 * temperature)
        found[np.arange(len(features)), np.where(features[:, 0] > 0, 2, 0)] = 1 - 0.1 * temperature
        return found


EMBEDDED: list[str] = []


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    def embed(runtime: FakeRuntime, texts: Sequence[str]) -> np.ndarray:
        EMBEDDED.append(runtime.key)
        return np.array([[float(text[0].isupper() or runtime.key == "blind")] for text in texts], np.float32)

    EMBEDDED.clear()
    monkeypatch.setattr(evidence, "embed", embed)


def examples(n: int) -> list[Labelled]:
    sources, tickers = ("wire", "desk"), ((), ("AAPL",), ("TCS.NS", "AAPL"))
    return [
        Labelled(f"e{i}", ("Up it went", "down it went")[i % 2], 2, True, sources[i % 2], "en", tickers[i % 3])
        for i in range(n)
    ]


def gathered(measure: list[Labelled], *keys: str) -> Any:
    anchor = examples(4)
    data = Dataset(learn=[], measure=measure, replay=[], anchor=anchor, live=[], upto=0)
    runtimes: list[Any] = [FakeRuntime(key) for key in keys]
    sides = [Side(runtime, ByLetters(), 1.0) for runtime in runtimes]
    return evidence.gather(*sides, data, evidence.both(*runtimes, [e.text for e in anchor]))  # type: ignore[call-arg]


def test_slices_are_of_class_source_language_and_tickers_and_never_everything() -> None:
    found = {name: int(mask.sum()) for name, mask in evidence.parts(examples(6)).items()}
    assert found == {"source desk": 3, "source wire": 3, "tickers NS": 2, "tickers none": 2, "tickers plain": 4}
    assert evidence.parts([]) == {}


def test_both_answer_the_same_texts_and_one_encoder_embeds_them_once() -> None:
    found = gathered(examples(10), "base", "base")
    assert found.held_out.champion.tolist() == [True, False] * 5 == found.held_out.challenger.tolist()
    assert found.anchor.challenger.tolist() == [True, False] * 2 and found.speed == 1.0
    assert found.confidence.champion == pytest.approx(np.full(10, 0.9))
    alone = len(EMBEDDED)
    gathered(examples(10), "base", "blind")
    assert EMBEDDED.count("blind") == alone


def test_edits_count_the_texts_that_they_change_and_whose_answers_stay() -> None:
    found = gathered(examples(10), "base", "blind")
    assert found.edits["space"].champion.all() and len(found.edits["space"].champion) == 10
    case = found.edits["case"]
    assert not case.champion.all() and case.challenger.all(), "only one of the two sees capitals"
    assert len(found.edits["name"].champion) == 0, "no company is named"
    assert found.speed > 0


def test_without_held_out_texts_there_is_still_the_anchor_set() -> None:
    found = gathered([], "base", "base")
    assert len(found.held_out.champion) == 0 and len(found.anchor.champion) == 4 and found.confidence is None
