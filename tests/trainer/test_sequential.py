"""The watch over a new champion: it may be asked after every label, and it is quick where the harm is large."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from scipy.integrate import quad

from services.trainer.sequential import ALPHA, Watch

RUNS, LABELS = 400, 6_000


@cache
def fewest(pairs: int) -> int:
    """Losses of so many pairs at which it says worse."""
    losses = fewest(pairs - 1) if pairs else 0
    while losses <= pairs and not Watch(pairs - losses, losses).worse():
        losses += 1
    return losses


def alarms(disagreement: float, change: float, seed: int = 5) -> np.ndarray:
    """In each run the label at which it first says worse, asked after every one; infinity where it never does."""
    random = np.random.default_rng(seed)
    found = np.full(RUNS, np.inf)
    for run in range(RUNS):
        differ = np.flatnonzero(random.random(LABELS) < disagreement)
        lost = np.cumsum(random.random(len(differ)) >= (disagreement + change) / (2 * disagreement))
        worse = np.flatnonzero(lost >= [fewest(pairs) for pairs in range(1, len(differ) + 1)])
        if len(worse):
            found[run] = differ[worse[0]] + 1
    return found


def test_the_stake_is_the_integral_that_it_says() -> None:
    for wins, losses in ((0, 0), (3, 9), (40, 20)):
        value, _ = quad(lambda t, w=wins, lost=losses: 2 * (2 * t) ** lost * (2 - 2 * t) ** w, 0.5, 1)
        assert Watch(wins, losses).log_evidence == pytest.approx(math.log(value), abs=1e-6)
    assert Watch().log_evidence == pytest.approx(0, abs=1e-12)
    assert Watch(10, 90_000).worse() and not Watch(90_000, 10).worse()


def test_a_stake_is_fair_where_wins_and_losses_are_alike() -> None:
    for wins, losses in ((0, 0), (5, 2), (20, 30)):
        after = [math.exp(Watch(wins + 1, losses).log_evidence), math.exp(Watch(wins, losses + 1).log_evidence)]
        assert sum(after) / 2 == pytest.approx(math.exp(Watch(wins, losses).log_evidence))


def test_only_texts_on_which_one_alone_is_right_count() -> None:
    assert Watch(1, 2).seen([(True, True), (False, False), (False, True), (True, False), (True, False)]) == Watch(2, 4)


@pytest.mark.parametrize("change", [0.0, 0.02])
def test_one_that_is_no_worse_is_rolled_back_in_few_runs_however_often_one_looks(change: float) -> None:
    assert np.mean(np.isfinite(alarms(0.15, change))) <= ALPHA


@pytest.mark.parametrize(("change", "labels"), [(-0.03, 2_500), (-0.05, 1_000), (-0.10, 200)])
def test_one_that_is_worse_is_found_after_a_number_of_labels(change: float, labels: int) -> None:
    found = alarms(0.15, change)
    assert np.mean(np.isfinite(found)) > 0.95
    assert 0.4 * labels < np.median(found) < labels
