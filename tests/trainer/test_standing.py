"""Where a challenger stands is read off the ledger: every state, what ends it, and what holds it up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from services.stream.errors import Rejected
from services.trainer import standing
from services.trainer.registry import Conflict, LedgerRow


def ledger(*decisions: str) -> list[LedgerRow]:
    """Of `action version actor`, a row each; each a second after the one before."""
    rows = []
    champion: str | None = None
    for epoch, decision in enumerate(decisions, start=1):
        action, version, actor = (*decision.split(), "trainer", "trainer")[:3]
        row = LedgerRow(
            epoch, action, version, champion, actor, f"because {epoch}", {"of": epoch}, 1000 * epoch, "", ""
        )
        rows.append(row)
        champion = version if action in ("promote", "rollback") else champion
    return rows


FIRST = "promote a setup"


@pytest.mark.parametrize(
    ("decisions", "state"),
    [
        ([], None),
        (["refuse b"], None),
        (["pass b"], "passed"),
        (["pass b", "pin a ana", "refuse c", "shadow c ana"], "passed"),
        (["pass b", "shadow b"], "shadowing"),
        (["pass b", "shadow b", "unshadow b ana"], "shadowing"),
        (["shadow b ana", "pass b"], "shadowing"),
        (["shadow b ana", "unshadow b ana", "pass b"], "passed"),
        (["pass b", "shadow b", "propose b"], "awaiting approval"),
        (["pass b", "propose b"], "awaiting approval"),
        (["pass b", "propose b", "shadow b ana"], "awaiting approval"),
        (["pass b", "shadow b", "withdraw b"], None),
        (["pass b", "propose b", "withdraw b ana"], None),
        (["pass b", "shadow b", "promote b"], None),
        (["pass b", "shadow b", "promote c ana"], None),
        (["pass b", "promote c ana", "pass d"], "passed"),
        (["promote c ana", "pass b", "rollback a ana"], None),
    ],
)
def test_the_ledger_says_where_a_challenger_stands(decisions: list[str], state: str | None) -> None:
    found = standing.candidate(ledger(FIRST, *decisions))
    assert (found.state if found else None) == state


def test_its_evidence_is_that_of_the_rows() -> None:
    passed = standing.candidate(ledger(FIRST, "pass b", "shadow b"))
    assert passed is not None and passed.evidence == {"passed": 2}
    proposed = standing.candidate(ledger(FIRST, "pass b", "shadow b", "propose b"))
    assert proposed is not None and proposed.evidence == {"of": 4}


def test_a_pin_holds_until_it_is_taken_out_whoever_is_champion() -> None:
    assert standing.pinned(ledger(FIRST)) is None
    rows = ledger(FIRST, "pin a ana", "promote b ana")
    pin = standing.pinned(rows)
    assert pin is not None and pin.epoch == 2
    with pytest.raises(Conflict, match="pinned by ana: because 2"):
        standing.must_be_free(rows)
    standing.must_be_pinned(rows)
    rows = ledger(FIRST, "pin a ana", "unpin a bo")
    assert standing.pinned(rows) is None
    standing.must_be_free(rows)
    with pytest.raises(Conflict, match="not pinned"):
        standing.must_be_pinned(rows)


def test_after_a_rollback_by_the_watch_the_gate_waits_and_what_proved_worse_is_remembered() -> None:
    by_hand = ledger(FIRST, "promote b", "rollback a ana")
    assert standing.cooling_until(by_hand, 60) is None and standing.spurned(by_hand, "b") is None
    rows = ledger(FIRST, "promote b", "rollback a watch", "promote c ana")
    assert standing.cooling_until(rows, 60) == 63_000
    assert (standing.held(rows, 60, 62_999) or "").startswith("after the rollback of epoch 3")
    assert standing.held(rows, 60, 63_000) is None
    found = standing.spurned(rows, "b")
    assert found is not None and found.epoch == 3 and standing.spurned(rows, "a") is None
    assert standing.held(ledger(FIRST, "pin a ana"), 60, 0) == "the champion is pinned by ana: because 2"


@pytest.mark.parametrize(
    ("look", "decisions"),
    [
        (standing.under_way, ["pass b", "withdraw b"]),
        (standing.under_way, ["pass c"]),
        (standing.awaiting, ["pass b", "shadow b"]),
        (standing.awaiting, []),
    ],
)
def test_what_is_not_there_to_decide_about_is_a_conflict(
    look: Callable[[Sequence[LedgerRow], str], object], decisions: list[str]
) -> None:
    with pytest.raises(Conflict):
        look(ledger(FIRST, *decisions), "b")
    assert standing.awaiting(ledger(FIRST, "pass b", "propose b"), "b").version == "b"


@pytest.mark.parametrize("name", ["trainer", "watch", "setup"])
def test_no_person_decides_under_a_machine_s_name(name: str) -> None:
    with pytest.raises(Rejected, match="machine"):
        standing.person(name)
    assert standing.person("ana") == "ana"
