"""What the gate's design promises: its α adds up, its power is the test's own, its looks are counted."""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy.stats import multinomial

from services.trainer import design, gate


def test_all_looks_together_spend_no_more_than_alpha() -> None:
    spent = np.cumsum([design.alpha_of(look) for look in range(1, 10_001)])
    assert spent[-1] < design.ALPHA and spent[-1] > 0.99 * design.ALPHA
    assert np.all(np.diff([design.alpha_of(look) for look in range(1, 100)]) < 0)


@pytest.mark.parametrize(("n", "disagreement", "gain", "alpha"), [(40, 0.3, 0.2, 0.05), (60, 0.2, 0.15, 0.0077)])
def test_power_is_that_of_the_test_itself(n: int, disagreement: float, gain: float, alpha: float) -> None:
    wins, losses = (disagreement + gain) / 2, (disagreement - gain) / 2
    exact = sum(
        float(multinomial.pmf([gained, lost, n - gained - lost], n, [wins, losses, 1 - disagreement]))
        for gained, lost in product(range(n + 1), repeat=2)
        if gained + lost <= n and gate.mcnemar(gained, lost) <= alpha
    )
    assert design.power(n, disagreement, alpha, gain) == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("disagreement", [0.10, 0.25])
def test_the_designed_number_has_the_power_and_no_fewer_do(disagreement: float) -> None:
    alpha = design.alpha_of(3)
    n = design.needed(disagreement, alpha)
    assert design.power(n, disagreement, alpha) >= design.POWER > design.power(n - 1, disagreement, alpha)


def test_the_plan_takes_two_models_to_differ_on_a_tenth_at_least() -> None:
    assert [design.planned(d) for d in (0.0, 0.1, 0.101, 0.37, 1.0)] == [0.10, 0.10, 0.11, 0.37, 1.0]


class Row(NamedTuple):
    action: str
    actor: str = "trainer"
    evidence: dict[str, Any] = {"look": 1}  # noqa: RUF012 (never changed)
    version: str = "a"


NO, PASS = Row("refuse"), Row("promote")
WAITS, GIVEN_UP = Row("pass", version="b"), Row("withdraw", evidence={}, version="b")
IN_SERVICE, APPROVED = (Row("promote", actor, {"passed": 2}, "b") for actor in ("trainer", "ana"))
UNTESTED, BACK = Row("refuse", evidence={"look": 0}), Row("rollback", "ana", {})
SETUP, BY_HAND = Row("promote", "setup", {}), Row("promote", "ana", {})


@pytest.mark.parametrize(
    ("rows", "count"),
    [
        ([], 0),
        ([SETUP], 0),
        ([SETUP, NO, NO], 2),
        ([SETUP, NO, UNTESTED, NO], 2),
        ([SETUP, NO, PASS], 0),
        ([SETUP, NO, PASS, NO], 1),
        ([SETUP, NO, BY_HAND, NO], 2),
        ([SETUP, NO, PASS, NO, BACK], 3),
        ([SETUP, NO, PASS, NO, PASS, NO, BACK], 3),
        ([SETUP, BACK], 0),
        ([SETUP, NO, Row("dry-run"), NO], 3),
        ([SETUP, NO, WAITS], 2),
        ([SETUP, NO, WAITS, IN_SERVICE], 0),
        ([SETUP, NO, WAITS, APPROVED, NO], 1),
        ([SETUP, NO, WAITS, GIVEN_UP, NO], 3),
        ([SETUP, NO, WAITS, IN_SERVICE, NO, BACK], 3),
        ([SETUP, NO, WAITS, BY_HAND, NO], 3),
        ([SETUP, NO, PASS, NO, BY_HAND, BACK], 1),
    ],
)
def test_looks_are_counted_since_the_last_pass_that_stood(rows: list[Row], count: int) -> None:
    assert design.looks(rows) == count
