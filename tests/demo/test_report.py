"""When the demo may say that the loop learned."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from services.demo.report import Hostile, Report, Sizes
from services.status import Account
from services.trainer.accuracy import accuracy
from services.trainer.registry import LedgerRow

LEARNED = Report(
    seed=0,
    account=Account(400, 370, 10, 15, 5, {}),
    expected={"taken": 400, "scored": 370, "rejected": 10, "duplicate": 15, "dead": 5},
    windows=12,
    before=accuracy([True] * 100 + [False] * 150),
    after=accuracy([True] * 150 + [False] * 100),
    gained=60,
    lost=10,
    p_value=1e-9,
    by_part={},
    corrections=200,
    confirmations=50,
    hostile=Hostile(90, 90, ["burst: 90 words within 60 s"]),
    ledger=LedgerRow(2, "promote", "b", "a", "trainer", "better", {}, 0, "", ""),
    ledger_problems=[],
    model_before="a",
    model_after="b",
    fresh=Sizes(60, 60, 40),
    texts_per_second=100.0,
    services={},
    seconds=60.0,
)


def test_a_loop_that_learned() -> None:
    assert LEARNED.learned


@pytest.mark.parametrize(
    "broken",
    [
        {"model_after": None},
        {"ledger_problems": ["row 2: it does not follow the row before it"]},
        {"after": LEARNED.before},
        {"p_value": 0.05},
        {"after": accuracy([True] * 200 + [False] * 49)},
        {"account": Account(400, 371, 9, 15, 5, {})},
        {"account": Account(401, 370, 10, 15, 5, {})},
        {"account": Account(400, 370, 10, 20, 0, {})},
        {"windows": 0},
        {"hostile": Hostile(90, 89, [])},
        {"fresh": Sizes(60, 59, 40)},
        {"fresh": Sizes(0, 0, 0)},
    ],
    ids=lambda broken: next(iter(broken)),
)
def test_one_thing_amiss_and_it_did_not_learn(broken: dict[str, Any]) -> None:
    assert not msgspec.structs.replace(LEARNED, **broken).learned
