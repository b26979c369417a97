"""The gate's every outcome, at its edges."""

from __future__ import annotations

import numpy as np
import pytest

from services.trainer import gate


def answers(n: int, right: int, first: int = 0) -> np.ndarray:
    """n answers of which `right` in a row are right, from `first` on."""
    found = np.zeros(n, dtype=bool)
    found[first : first + right] = True
    return found


ANCHOR = answers(100, 80)


def test_a_challenger_that_wins_beyond_chance_is_promoted_with_its_numbers() -> None:
    verdict = gate.judge(answers(100, 50), answers(100, 60), ANCHOR, ANCHOR)
    assert verdict.promote
    assert (verdict.gained, verdict.lost) == (10, 0)
    assert verdict.p_value == pytest.approx(0.5**10)
    assert (verdict.champion.rate, verdict.challenger.rate) == (0.5, 0.6)
    assert verdict.reason.startswith("better: +10 −0 of 100")


@pytest.mark.parametrize(("wins", "promoted"), [(4, False), (5, True)])
def test_four_wins_of_four_may_be_chance_and_five_of_five_are_not(wins: int, promoted: bool) -> None:
    verdict = gate.judge(answers(100, 50), answers(100, 50 + wins), ANCHOR, ANCHOR)
    assert verdict.promote is promoted
    assert promoted or verdict.reason == f"not shown to be better: +{wins} −0, p = 0.062"


def test_wins_are_weighed_against_losses_on_the_same_texts() -> None:
    verdict = gate.judge(answers(100, 50), answers(100, 55, first=45), ANCHOR, ANCHOR)
    assert (verdict.gained, verdict.lost) == (50, 45)
    assert not verdict.promote and verdict.reason.startswith("not shown to be better: +50 −45")


def test_an_equal_challenger_is_refused() -> None:
    verdict = gate.judge(answers(100, 50), answers(100, 50), ANCHOR, ANCHOR)
    assert not verdict.promote and verdict.p_value == 1.0


@pytest.mark.parametrize(("held_out", "promoted"), [(29, False), (30, True)])
def test_too_few_held_out_labels_prove_nothing_whatever_they_say(held_out: int, promoted: bool) -> None:
    verdict = gate.judge(answers(held_out, 0), answers(held_out, held_out), ANCHOR, ANCHOR)
    assert verdict.promote is promoted
    assert promoted or verdict.reason == "not enough evidence: 29 held-out labels of 30"


def test_without_any_held_out_label_there_is_a_verdict_all_the_same() -> None:
    none = answers(0, 0)
    verdict = gate.judge(none, none, ANCHOR, ANCHOR)
    assert not verdict.promote and verdict.reason.startswith("not enough evidence: 0")
    assert (verdict.champion.low, verdict.champion.high) == (0.0, 1.0)


@pytest.mark.parametrize(("forgotten", "promoted"), [(1, True), (3, False)])
def test_a_better_one_that_forgets_is_refused(forgotten: int, promoted: bool) -> None:
    verdict = gate.judge(answers(100, 50), answers(100, 90), ANCHOR, answers(100, 80 - forgotten))
    assert verdict.promote is promoted
    assert promoted or verdict.reason == "forgets: 80.0% → 77.0% on the anchor set"
