"""A model abstains below its threshold and nowhere else, and its label is the likeliest all the same."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import pytest

from services.score.artifact import Calibration
from services.score.engine import Engine, Scored
from services.score.outcome import events
from services.stream import topics
from services.stream.bus import Record
from services.stream.errors import Rejected
from services.stream.events import LABELS, CleanText, Mention, Origin, Prediction, decode
from services.trainer.anchors import anchors

TEXTS = [anchor.text for anchor in anchors()[:60]]


def scored(engine: Engine, threshold: float | None) -> list[Scored]:
    """By the same model with another threshold, or with none."""
    calibration = engine.card.calibration
    assert isinstance(calibration, Calibration)
    changed = None if threshold is None else msgspec.structs.replace(calibration, threshold=threshold)
    card = msgspec.structs.replace(engine.card, calibration=changed)
    answers = Engine(engine.runtime, engine.model._replace(card=card)).score(TEXTS)
    return [answer for answer in answers if isinstance(answer, Scored)]


def test_it_abstains_below_the_threshold_only(engine: Engine) -> None:
    greatest = sorted(max(answer.probabilities) for answer in scored(engine, None))
    threshold = (greatest[19] + greatest[20]) / 2
    answers = scored(engine, threshold)
    assert sum(answer.abstained for answer in answers) == 20
    for answer in answers:
        assert answer.abstained == (max(answer.probabilities) < threshold)
        assert answer.label == LABELS[answer.probabilities.index(max(answer.probabilities))]


@pytest.mark.parametrize("threshold", [None, 0.0])
def test_without_a_threshold_it_never_abstains(engine: Engine, threshold: float | None) -> None:
    answers = scored(engine, threshold)
    assert len(answers) == len(TEXTS) and not any(answer.abstained for answer in answers)


def test_the_bundled_model_abstains_from_some(engine: Engine) -> None:
    assert engine.card.threshold is not None
    assert 0 < sum(answer.abstained for answer in scored(engine, engine.card.threshold)) < len(TEXTS) / 2


class Used(NamedTuple):
    version: str = "m1"
    epoch: int = 1


@pytest.mark.parametrize("abstained", [True, False])
def test_the_prediction_is_marked_and_its_mention_is_as_any(abstained: bool) -> None:
    text = CleanText(
        text_id="t", cluster="t", text="Profit", source="wire", event_time=1, received=1, language="en",
        tickers=("ACME",), origin=Origin(topics.RAW, 0, 0),
    )  # fmt: skip
    record = Record(topics.CLEAN, 0, 0, 1, b"t", b"")
    answer = events(text, Scored("positive", (0.3, 0.3, 0.4), False, abstained), record, Used(), 2)
    assert not isinstance(answer, Rejected)
    prediction, mention = (made.value for made in answer)
    assert decode(Prediction, prediction).abstained is abstained
    assert (b"abstained" in prediction) is abstained, "older readers see what they always saw"
    assert decode(Mention, mention).label == "positive"
