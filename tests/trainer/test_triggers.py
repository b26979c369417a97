"""When it trains, when it doesn't, and what it says about it: pure decisions over numbers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from services.settings import Settings
from services.trainer import triggers
from services.trainer.drift import WINDOW, Drift
from services.trainer.evaluations import Evaluation, Numbers

NOW = 1_800_000_000_000
HOUR = 3_600_000
SETTINGS = Settings(
    database="", retrain_after=200, retrain_every_s=24 * 3_600, retrain_cooldown_s=300, retrain_below=0.65
)
QUIET = Numbers(
    at=NOW,
    fresh=143,
    contradicting=40,
    since=NOW - HOUR,
    ended=NOW - HOUR,
    running=False,
    right=285,
    sampled=400,
    held_out=400,
    look=1,
    predictions=2 * WINDOW,
    drift=Drift(0.01, 0.02, 0.0, 0.03),
)
"""Nothing asks for a run, and nothing stands against one."""
FULL = {"fresh": 200}


def look(**changes: Any) -> Evaluation:
    return triggers.evaluate(msgspec.structs.replace(QUIET, **changes), SETTINGS)


def test_while_nothing_asks_it_says_how_far_each_trigger_is() -> None:
    found = look()
    assert (found.train, found.trigger, found.holds) == (False, "", ())
    assert found.reason == (
        "no: 143 of 200 new labels; waited 60 min of 24 h; drift of sources 0.03 below 0.25;"
        " live accuracy 71.2% (67%–76%) above the bound of 65%"
    )
    assert found.numbers == QUIET


@pytest.mark.parametrize(
    ("trigger", "changes", "says"),
    [
        ("volume", FULL, "200 of 200 new labels"),
        ("time", {"fresh": 10, "since": NOW - 25 * HOUR}, "waited 25 h of 24 h"),
        ("drift", {"fresh": 50, "drift": Drift(0.01, 0.31, 0.0, 0.03)}, "drift of labels 0.31 above 0.25"),
        ("accuracy", {"fresh": 50, "right": 200}, "live accuracy 50.0% (45%–55%) below the bound of 65%"),
    ],
)
def test_each_trigger_starts_a_run(trigger: str, changes: dict[str, Any], says: str) -> None:
    found = look(**changes)
    assert (found.train, found.trigger, found.holds) == (True, trigger, (trigger,))
    assert found.reason.startswith(f"yes, by {trigger}: ") and says in found.reason


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fresh": 199}, "199 of 200 new labels"),
        ({"fresh": 0, "contradicting": 0, "since": NOW - 90 * HOUR}, "nothing new to learn from"),
        ({"since": NOW - 23 * HOUR}, "waited 23 h of 24 h"),
        ({"drift": Drift(0.01, 0.24, 0.0, 0.03)}, "drift of labels 0.24 below 0.25"),
        ({"drift": None, "predictions": 1_200}, f"drift unknown: 1,200 of {2 * WINDOW:,} predictions"),
        ({"fresh": 49, "drift": Drift(1.0, 0.0, 0.0, 0.0)}, "above 0.25, but only 49 of 50 new labels for it"),
        ({"right": 245}, "live accuracy 61.3% (56%–66%) not clearly below the bound of 65%"),
        ({"fresh": 49, "right": 200}, "below the bound of 65%, but only 49 of 50 new labels for it"),
        ({"right": 0, "sampled": 0}, "live accuracy unknown: no random review of this champion yet"),
    ],
)
def test_each_trigger_waits_for_its_bound(changes: dict[str, Any], says: str) -> None:
    found = look(**changes)
    assert not found.train and found.trigger == "" and says in found.reason


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("running", {"running": True}, "a run is under way"),
        ("cool-down", {"ended": NOW - 60_000}, "the cool-down ends in 4 min"),
        ("agreement", {"contradicting": 7}, "7 of 8 new labels contradict the champion"),
        ("power", {"held_out": 29}, "no pass is possible with 29 of 30 held-out labels"),
        (
            "power",
            {"held_out": 40, "right": 392},
            "40 held-out labels would show half of the mistakes mended with a chance of 0% only",
        ),
    ],
)
def test_each_hindrance_keeps_it_from_training(name: str, changes: dict[str, Any], says: str) -> None:
    found = look(**FULL, **changes)
    assert (found.train, found.trigger, found.holds) == (False, "volume", ("volume", name))
    assert found.reason.startswith("no: ") and found.reason.endswith(says)


def test_a_hindrance_ends() -> None:
    assert look(**FULL, ended=NOW - 300_000, contradicting=8, held_out=100).train


def test_the_least_contradictions_are_the_least_wins_of_a_pass() -> None:
    from services.trainer import design, gate

    least = triggers.LEAST_CONTRADICTING
    assert gate.mcnemar(least, 0) <= design.alpha_of(1) < gate.mcnemar(least - 1, 0)


def test_a_small_holdout_can_show_what_a_bad_champion_could_gain() -> None:
    bad, good = (triggers.passing(msgspec.structs.replace(QUIET, held_out=60, right=r)) for r in (160, 360))
    assert bad > 0.5 > triggers.POSSIBLE > good


def test_later_looks_take_a_larger_holdout() -> None:
    first, late = (triggers.passing(msgspec.structs.replace(QUIET, held_out=80, look=n)) for n in (1, 50))
    assert first > late


def test_a_person_needs_no_reason() -> None:
    found = triggers.by_command(msgspec.structs.replace(QUIET, fresh=0, contradicting=0, running=True))
    assert found.train and found.trigger == "command" and found.reason.startswith("yes, by command")
