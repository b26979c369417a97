"""A shadow's trial: each criterion with its numbers, and what only looks like trouble."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from services.score import artifact
from services.score.engine import Engine, open_engine
from services.status import Service
from services.trainer import trial
from services.trainer.trial import Answers, Trial

NONE = Answers(np.zeros(0, int), np.zeros(0))


def answers(labels: list[int], confidence: float = 0.8) -> Answers:
    return Answers(np.array(labels), np.full(len(labels), confidence))


def judged(champion: Answers, shadow: Answers, **other: Any) -> Trial:
    named: dict[str, Any] = {"wanted": 100, "seconds": 1.0, "errors": (), "speed": 1.0} | other
    return trial.judge((champion, shadow), (NONE, NONE), **named)


MIXED = [0, 1, 2, 0, 1] * 20


def test_one_that_differs_as_a_model_that_learned_does_has_no_problems() -> None:
    other = [(label + 1) % 3 if n % 10 < 4 else label for n, label in enumerate(MIXED)]
    found = judged(answers(MIXED), answers(other, 0.6))
    assert (found.problems, found.texts, found.agreement.rate) == ((), 100, 0.6)
    assert sum(found.champion_labels.values()) == pytest.approx(1) and found.champion_confidence == 0.8


def test_live_and_logged_texts_count_together() -> None:
    live, logged = (answers([0] * 30), answers([0] * 30)), (answers([1] * 10), answers([2] * 10))
    found = trial.judge(live, logged, wanted=40, seconds=1.0, errors=(), speed=1.0)
    assert (found.texts, found.live, found.replayed, found.agreement.right) == (40, 30, 10, 30)
    assert found.champion_labels == {"negative": 0.75, "neutral": 0.25, "positive": 0.0}
    assert found.shift == 0.25 and found.problems == ()


@pytest.mark.parametrize(
    ("shadow", "other", "words"),
    [
        (answers([(label + 1) % 3 for label in MIXED]), {}, "agrees with the champion on 0% of 100 texts"),
        (answers([0] * 100), {}, "moves 60% of the labels"),
        (answers(MIXED, 0.45), {}, "confidence is 0.45, the champion's 0.80"),
        (answers(MIXED, float("nan")), {}, "confidence is nan"),
        (answers(MIXED), {"speed": 0.4}, "40% of the champion's texts a second"),
        (answers(MIXED), {"errors": ("score 0 can't load it: x",)}, "score 0 can't load it: x"),
    ],
)
def test_what_is_absurd_is_told_with_its_numbers(shadow: Answers, other: dict[str, Any], words: str) -> None:
    found = judged(answers(MIXED), shadow, **other)
    assert any(words in problem for problem in found.problems), found.problems


def test_few_texts_with_little_agreement_are_not_absurd_yet() -> None:
    assert judged(answers([0, 1, 2]), answers([0, 2, 1])).problems == ()


def test_scorers_that_can_not_load_it_or_fail_on_texts_are_named() -> None:
    def scorer(slot: int, shadow: dict[str, object] | None, *, alive: bool = True, name: str = "score") -> Service:
        return Service(name, slot, 1, "running", alive, None, {"shadow": shadow} if shadow else {})

    found = [
        scorer(0, {"model": "b", "state": "scoring", "failed": 0}),
        scorer(1, {"model": "b", "state": "refused", "reason": "no room"}),
        scorer(2, {"model": "b", "state": "scoring", "failed": 3}),
        scorer(3, {"model": "other", "state": "refused", "reason": "x"}),
        scorer(4, {"model": "b", "state": "refused", "reason": "dead"}, alive=False),
        scorer(5, None),
        scorer(0, {"model": "b", "state": "refused", "reason": "x"}, name="store"),
    ]
    assert trial.in_service(found, "b") == ["score 1 can't load it: no room", "score 2 failed on 3 texts"]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return open_engine(artifact.bundled(), device="cpu", threads=1)


def test_logged_texts_are_answered_by_both(engine: Engine) -> None:
    head = engine.model.head._replace(bias=np.array([9, 0, 0], np.float32))
    other = Engine(engine.runtime, engine.model._replace(head=head))
    found = trial.replay(engine, other, ["Profit doubles and beats every estimate", "Profit warning, shares slump"])
    assert found.champion.labels.tolist() == [2, 0] and found.shadow.labels.tolist() == [0, 0]
    assert np.all(found.shadow.confidence > 0.9) and found.speed == 1.0 and found.errors == ()
    empty = trial.replay(engine, other, [])
    assert len(empty.champion.labels) == 0 and empty.errors == ()


class Failing:
    """An engine that can't score one of the texts."""

    def __init__(self, engine: Engine, text: str) -> None:
        self._engine, self._text, self.runtime = engine, text, engine.runtime

    def score(self, texts: list[str], *arguments: Any) -> Any:
        return [trial.Rejected("encoder") if t == self._text else a
                for t, a in zip(texts, self._engine.score(texts, *arguments), strict=True)]  # fmt: skip


def test_a_text_that_only_the_shadow_fails_on_is_an_error(engine: Engine) -> None:
    failing: Any = Failing(engine, "one")
    assert trial.replay(engine, failing, ["one", "two"]).errors == ("it fails on 1 logged texts",)
    both = trial.replay(failing, failing, ["one", "two"])
    assert both.errors == () and len(both.champion.labels) == 1
