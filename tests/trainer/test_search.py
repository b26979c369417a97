"""Successive halving: who goes on, for how long, and when edits stay."""

from __future__ import annotations

import pytest

from services.trainer.search import MARGIN, Trial, drawn, search
from services.trainer.tune import Plan

START = Trial(Plan(epochs=4, rank=8, rate=1e-3))


def test_the_start_is_tried_with_others_that_differ() -> None:
    trials = drawn(START, 8, seed=1)
    assert trials[0] == START and len(set(trials)) == 8
    assert drawn(START, 8, seed=1) == trials != drawn(START, 8, seed=2)
    assert len(drawn(START, 100, seed=1)) == 36
    assert {trial.plan.rank for trial in drawn(START._replace(plan=Plan(rank=0)), 100, seed=1)} == {0}


@pytest.mark.parametrize(
    ("budget", "rounds"),
    [(2, [(4, 2)]), (3, [(2, 3), (4, 2)]), (8, [(1, 8), (2, 4), (4, 2)]), (5, [(1, 5), (2, 3), (4, 2)])],
)
def test_half_goes_on_to_twice_the_epochs_and_the_best_wins(budget: int, rounds: list[tuple[int, int]]) -> None:
    asked: list[Trial] = []

    def loss(trial: Trial) -> float:
        asked.append(trial)
        return abs(trial.plan.rate - 3e-3) + abs(trial.replay - 2) + trial.augmented

    best = search(START, budget, 1, loss, lambda _: None)
    plain = [trial for trial in asked if not trial.augmented]
    found = [(epochs, sum(trial.plan.epochs == epochs for trial in plain)) for epochs, _ in rounds]
    assert found == rounds and len(asked) == len(plain) + 1
    assert not best.augmented and best.plan.epochs == 4
    first = {trial._replace(plan=trial.plan._replace(epochs=0)) for trial in plain}
    assert loss(best) == min(loss(trial) for trial in first)


@pytest.mark.parametrize(("gain", "stays"), [(2 * MARGIN, True), (MARGIN / 2, False), (-MARGIN, False)])
def test_edits_stay_only_where_they_show_their_gain(gain: float, stays: bool) -> None:
    said: list[str] = []
    best = search(START, 2, 1, lambda trial: 1.0 - gain * trial.augmented, said.append)
    assert best.augmented is stays
    assert said[-1].startswith(f"edits gain {gain:+.4f}")
