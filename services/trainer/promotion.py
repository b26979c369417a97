"""Changes of the champion: each live scorer first says whether it could serve the model, then all switch.

Asking is an event in `preparations`, the answers are in the scorers' rows of `service`. Nothing is locked meanwhile:
the decision is made on the champion that was there when the scorers were asked, and fails if it has moved. What shadows
the champion is decided at once: a scorer that can't load it says so, and goes on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any, Final, Literal, NamedTuple

import msgspec
from psycopg2.extensions import cursor as Cursor

from services.runtime import now_ms
from services.status import Service, services
from services.stream import topics
from services.stream.bus import Bus, Outgoing
from services.stream.database import Connect, transaction
from services.stream.errors import Rejected, Transient
from services.stream.events import ModelChange, Preparation, encode
from services.trainer import registry, standing
from services.trainer.registry import Conflict, LedgerRow

SERVICE: Final = "score"
DETAIL: Final = "preparation"
"""Where a scorer's `Answer` stands in its row's detail."""
LOOK_S: Final = 0.1


class Unprepared(Rejected):
    """A live scorer refuses the model, or didn't answer in time; the detail names it and the reason."""

    def __init__(self, detail: str) -> None:
        super().__init__("unprepared", detail)


class Answer(msgspec.Struct, frozen=True):
    """What a scorer says to the preparation at `offset`, the last that it was asked for."""

    offset: int
    model: str
    answer: Literal["preparing", "ready", "refused"] = "preparing"
    reason: str = ""


class Answers(NamedTuple):
    """Of all live scorers, those that aren't ready: reasons by name, and names of those still to answer."""

    refused: dict[str, str]
    silent: list[str]


def answers(found: Sequence[Service], offset: int) -> Answers:
    """What the scorers that serve now say to the preparation at `offset`. One that is starting serves nothing yet, and
    takes its model from `models`.

    Raises:
        Conflict: one of them was asked for another model since.
    """
    refused, silent = {}, []
    for scorer in found:
        if scorer.name != SERVICE or not scorer.alive or scorer.state != "running":
            continue
        name = f"{scorer.name} {scorer.slot}"
        said = msgspec.convert(scorer.detail[DETAIL], Answer) if DETAIL in scorer.detail else None
        if said is not None and said.offset > offset:
            raise Conflict(f"another promotion is under way: {name} was asked to prepare {said.model} since")
        if said is None or said.offset < offset or said.answer == "preparing":
            silent.append(name)
        elif said.answer == "refused":
            refused[name] = said.reason
    return Answers(refused, silent)


Check = Callable[[Sequence[LedgerRow]], object]
"""Raises Conflict where the ledger says by now what speaks against a decision."""


class Promoter:
    """Changes the champion and its shadow, and decides about challengers. `bus` must be one that may publish; a set
    `stop` ends a wait. A `check` is made on the ledger as it is when the row is written."""

    def __init__(self, bus: Bus, connect: Connect, patience_s: float, stop: threading.Event | None = None) -> None:
        self._bus, self._connect, self._patience_s = bus, connect, patience_s
        self._stop = stop or threading.Event()

    def promote(
        self,
        version: str,
        *,
        actor: str,
        reason: str,
        evidence: Mapping[str, Any],
        expected_epoch: int | None = None,
        check: Check | None = None,
    ) -> ModelChange:
        """Make `version` the champion.

        Raises:
            Conflict, Rejected: see `registry.settled`; or the champion has moved while the scorers were preparing.
            Unprepared, Transient: see `prepare`.
        """
        return self._change("promote", version, actor, reason, evidence, expected_epoch, check)

    def approve(self, version: str, *, actor: str, reason: str, expected_epoch: int | None = None) -> ModelChange:
        """Promote the challenger that awaits approval, with its evidence.

        Raises: as `promote`; Conflict, too, where `version` doesn't.
        """
        with closing(self._connect()) as connection, transaction(connection), connection.cursor() as cursor:
            found = standing.awaiting(registry.ledger(cursor), version)
        return self._change(
            "promote",
            version,
            actor,
            reason,
            found.evidence,
            expected_epoch,
            lambda rows: standing.awaiting(rows, version),
        )

    def rollback(
        self,
        *,
        actor: str,
        reason: str,
        evidence: Mapping[str, Any] | None = None,
        expected_epoch: int | None = None,
        check: Check | None = None,
    ) -> ModelChange:
        """Go back to the champion before the current one; rolling back twice goes back two.

        Raises: as `promote`; Conflict, too, where there is none to go back to.
        """
        return self._change("rollback", None, actor, reason, evidence or {}, expected_epoch, check)

    def shadow(
        self,
        version: str,
        *,
        actor: str,
        reason: str,
        expected_epoch: int | None = None,
        check: Check | None = None,
    ) -> ModelChange:
        """Have `version` score a sample of the stream beside the champion, in the place of any other; what it says is
        kept apart. It ends by `unshadow`, and with the champion that it shadows.

        Raises:
            Conflict, Rejected: see `registry.settled`.
        """
        return registry.change_of(self.decide("shadow", version, actor, reason, {}, expected_epoch, check))

    def unshadow(self, *, actor: str, reason: str, expected_epoch: int | None = None) -> ModelChange:
        """End the shadow.

        Raises: as `shadow`.
        """
        return registry.change_of(self.decide("unshadow", None, actor, reason, {}, expected_epoch))

    def reject(self, version: str, *, actor: str, reason: str, expected_epoch: int | None = None) -> ModelChange:
        """Give up a challenger that passed the gate, wherever it stands; its shadow ends.

        Raises:
            Conflict: it is no longer under way, or see `registry.settled`.
        """
        row = self.decide(
            "withdraw", version, actor, reason, {}, expected_epoch, lambda rows: standing.under_way(rows, version)
        )
        return registry.change_of(row)

    def pin(self, *, actor: str, reason: str, expected_epoch: int | None = None) -> LedgerRow:
        """Let neither the gate nor the watch change the champion; people may.

        Raises:
            Conflict: it is pinned already, or see `registry.settled`.
        """
        return self.decide("pin", None, actor, reason, {}, expected_epoch, standing.must_be_free)

    def unpin(self, *, actor: str, reason: str, expected_epoch: int | None = None) -> LedgerRow:
        """End the pin.

        Raises:
            Conflict: there is none, or see `registry.settled`.
        """
        return self.decide("unpin", None, actor, reason, {}, expected_epoch, standing.must_be_pinned)

    def _change(
        self,
        action: str,
        wanted: str | None,
        actor: str,
        reason: str,
        evidence: Mapping[str, Any],
        expected_epoch: int | None,
        check: Check | None,
    ) -> ModelChange:
        with closing(self._connect()) as connection, transaction(connection), connection.cursor() as cursor:
            current, version = registry.settled(cursor, action, wanted, expected_epoch)
        if current is not None:  # else no scorer serves anything yet
            self.prepare(version)
        epoch = current.epoch if current else 0
        return registry.change_of(self.decide(action, version, actor, reason, evidence, epoch, check))

    def decide(
        self,
        action: str,
        version: str | None,
        actor: str,
        reason: str,
        evidence: Mapping[str, Any],
        expected_epoch: int | None,
        check: Check | None = None,
    ) -> LedgerRow:
        """Write one row and, if scorers follow it, tell them, in one effect.

        Raises:
            Conflict, Rejected: see `registry.settled`; or what `check` raises.
        """
        written: list[LedgerRow] = []

        def write(cursor: Cursor) -> list[Outgoing]:
            registry.lock(cursor)
            if check is not None:
                check(registry.ledger(cursor))
            row = registry.decide(
                cursor,
                action,
                version,
                actor=actor,
                reason=reason,
                evidence=evidence,
                expected_epoch=expected_epoch,
            )
            written.append(row)
            return [registry.announcement(row)] if row.action in registry.TOLD else []

        self._bus.write(write)
        return written[-1]

    def prepare(self, version: str) -> None:
        """Have every live scorer load and prove `version`, and return once all are ready; at once where none is alive.

        Raises:
            Unprepared: a scorer refuses it, or doesn't answer in time.
            Conflict: another version was asked for since.
            Transient: a server is away, or `stop` was set.
        """
        asked = Preparation(version=version, at=now_ms())
        ((_, offset),) = self._bus.publish([Outgoing(topics.PREPARATIONS, version.encode(), encode(asked))])
        deadline = time.monotonic() + self._patience_s
        with closing(self._connect()) as connection:
            while True:
                with transaction(connection), connection.cursor() as cursor:
                    found = answers(services(cursor), offset)
                if not found.silent or time.monotonic() > deadline:
                    break
                if self._stop.wait(LOOK_S):
                    raise Transient("stopped while the scorers were preparing")
        reasons = [f"{name} refuses it: {reason}" for name, reason in found.refused.items()]
        reasons += [f"{name} did not answer within {self._patience_s:.0f} s" for name in found.silent]
        if reasons:
            raise Unprepared(f"model {version} is not promoted: {'; '.join(reasons)}")
