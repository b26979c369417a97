"""Where a challenger stands between the gate and service, and what holds it up: read off the ledger, kept nowhere else.

    pass ─► shadow ─► propose ─► promote
      └────────┴─────────┴─────► withdraw

Each step is one row (a setting may leave `shadow` or `propose` out, and where both are left out and nothing holds it
up, `pass` and `promote` are one). So whichever process is killed at whichever moment, its successor reads the same
state and takes the next step. Any change of the champion ends a candidacy: it was proved better than another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec
from psycopg2.extensions import cursor as Cursor

from services.runtime import now_ms
from services.stream.errors import Rejected
from services.trainer import watch
from services.trainer.registry import CHANGES, GATE, WATCH, Conflict, LedgerRow, ledger, shadowing
from services.trainer.watch import Watched

MACHINES: Final = (GATE, WATCH, "setup")
"""Names under which no person decides."""


class Candidate(msgspec.Struct, frozen=True):
    """A challenger that passed the gate, and the rows that tell of it. `state`: what was done last."""

    version: str
    state: Literal["passed", "shadowing", "awaiting approval"]
    passed: LedgerRow
    shadow: LedgerRow | None = None
    proposed: LedgerRow | None = None

    @property
    def evidence(self) -> dict[str, Any]:
        """For its promotion: where the gate's verdict is, and how its shadow did."""
        return self.proposed.evidence if self.proposed else {"passed": self.passed.epoch}


def candidate(rows: Sequence[LedgerRow]) -> Candidate | None:
    """The challenger that is under way; `rows` are oldest first."""
    found: Candidate | None = None
    for number, row in enumerate(rows):
        if row.action == "pass":
            beside = shadowing(rows[:number])
            shadows = beside is not None and beside.version == row.version  # a person had begun it
            found = Candidate(row.version, "shadowing" if shadows else "passed", row, beside if shadows else None)
        elif row.action in CHANGES:
            found = None
        elif found is not None and row.version == found.version:
            found = _after(found, row)
    return found


def _after(found: Candidate, row: LedgerRow) -> Candidate | None:
    if row.action == "withdraw":
        return None
    if row.action == "propose":
        return msgspec.structs.replace(found, state="awaiting approval", proposed=row)
    if row.action == "shadow" and found.proposed is None:
        return msgspec.structs.replace(found, state="shadowing", shadow=row)
    return found


def pinned(rows: Sequence[LedgerRow]) -> LedgerRow | None:
    """The row by which the machine may not change the champion, if there is one: people may, and it stays."""
    newest = next((row for row in reversed(rows) if row.action in ("pin", "unpin")), None)
    return newest if newest is not None and newest.action == "pin" else None


def rolled_back(rows: Sequence[LedgerRow]) -> list[LedgerRow]:
    """Rollbacks by the watch; `champion` is what proved worse."""
    return [row for row in rows if row.action == "rollback" and row.actor == WATCH]


def cooling_until(rows: Sequence[LedgerRow], cooldown_s: int) -> int | None:
    """Until when, in milliseconds since the epoch, the gate promotes nothing; it may be over."""
    found = rolled_back(rows)
    return found[-1].at + 1000 * cooldown_s if found else None


def held(rows: Sequence[LedgerRow], cooldown_s: int, now: int) -> str | None:
    """Why no challenger is promoted now, whatever it proved."""
    pin, until = pinned(rows), cooling_until(rows, cooldown_s)
    if pin is not None:
        return f"the champion is pinned by {pin.actor}: {pin.reason}"
    if until is not None and now < until:
        ends = datetime.fromtimestamp(until / 1000, UTC).isoformat(timespec="seconds")
        return f"after the rollback of epoch {rolled_back(rows)[-1].epoch} nothing is promoted until {ends}"
    return None


def spurned(rows: Sequence[LedgerRow], version: str) -> LedgerRow | None:
    """The row by which the watch rolled `version` back: it had its chance, and only a person gives it another."""
    return next((row for row in reversed(rolled_back(rows)) if row.champion == version), None)


# ── what a decision may rest on, asked again while the ledger is locked ──────────────────────────────────────────────


def must_be_free(rows: Sequence[LedgerRow]) -> None:
    """Raises Conflict where the champion is pinned."""
    pin = pinned(rows)
    if pin is not None:
        raise Conflict(f"the champion is pinned by {pin.actor}: {pin.reason}")


def must_be_pinned(rows: Sequence[LedgerRow]) -> None:
    """Raises Conflict where it isn't."""
    if pinned(rows) is None:
        raise Conflict("the champion is not pinned")


def under_way(rows: Sequence[LedgerRow], version: str) -> Candidate:
    """The candidate.

    Raises:
        Conflict: `version` is none.
    """
    found = candidate(rows)
    if found is None or found.version != version:
        raise Conflict(f"{version} is no challenger under way; {found.version if found else 'none'} is")
    return found


def awaiting(rows: Sequence[LedgerRow], version: str) -> Candidate:
    """The candidate that waits for a person.

    Raises:
        Conflict: `version` is none, or isn't so far yet.
    """
    found = under_way(rows, version)
    if found.state != "awaiting approval":
        raise Conflict(f"{version} is not awaiting approval, it is {found.state}; `models promote` needs none")
    return found


def person(actor: str) -> str:
    """The name of who decides.

    Raises:
        Rejected: it is one of the machine's own.
    """
    if actor in MACHINES:
        raise Rejected("reserved", f"{actor} is the name of a machine's decisions; take another")
    return actor


# ── to be shown ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Standing(msgspec.Struct, frozen=True):
    """What may change the champion next."""

    candidate: Candidate | None
    pinned: LedgerRow | None
    cooling_until: int | None
    """Milliseconds since the epoch, where that is still to come."""
    watched: Watched | None
    """The champion against the one before, where it was promoted over one."""


def now(cursor: Cursor, cooldown_s: int) -> Standing:
    """As the ledger and the readers' labels say."""
    rows = ledger(cursor)
    until, promoted = cooling_until(rows, cooldown_s), watch.watched(rows)
    return Standing(
        candidate=candidate(rows),
        pinned=pinned(rows),
        cooling_until=until if until is not None and until > now_ms() else None,
        watched=watch.found(cursor, promoted) if promoted is not None else None,
    )
