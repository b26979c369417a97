"""Changes of the champion: each live scorer first says whether it could serve the model, then all switch.

Asking is an event in `preparations`, the answers are in the scorers' rows of `service`. Nothing is locked meanwhile:
the decision is made on the champion that was there when the scorers were asked, and fails if it has moved. What shadows
the champion is decided at once: a scorer that can't load it says so, and goes on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
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
from services.trainer import registry
from services.trainer.registry import Conflict

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


class Promoter:
    """Changes the champion and its shadow. `bus` must be one that may publish; a set `stop` ends a wait."""

    def __init__(self, bus: Bus, connect: Connect, patience_s: float, stop: threading.Event | None = None) -> None:
        self._bus, self._connect, self._patience_s = bus, connect, patience_s
        self._stop = stop or threading.Event()

    def promote(
        self, version: str, *, actor: str, reason: str, evidence: Mapping[str, Any], expected_epoch: int | None = None
    ) -> ModelChange:
        """Make `version` the champion.

        Raises:
            Conflict, Rejected: see `registry.settled`; or the champion has moved while the scorers were preparing.
            Unprepared, Transient: see `prepare`.
        """
        return self._change("promote", version, actor, reason, evidence, expected_epoch)

    def rollback(self, *, actor: str, reason: str, expected_epoch: int | None = None) -> ModelChange:
        """Go back to the champion before the current one; rolling back twice goes back two.

        Raises: as `promote`; Conflict, too, where there is none to go back to.
        """
        return self._change("rollback", None, actor, reason, {}, expected_epoch)

    def shadow(self, version: str, *, actor: str, reason: str, expected_epoch: int | None = None) -> ModelChange:
        """Have `version` score a sample of the stream beside the champion, in the place of any other; what it says is
        kept apart. It ends by `unshadow`, and with the champion that it shadows.

        Raises:
            Conflict, Rejected: see `registry.settled`.
        """
        return self._decide("shadow", version, actor, reason, {}, expected_epoch)

    def unshadow(self, *, actor: str, reason: str, expected_epoch: int | None = None) -> ModelChange:
        """End the shadow.

        Raises: as `shadow`.
        """
        return self._decide("unshadow", None, actor, reason, {}, expected_epoch)

    def _change(
        self,
        action: str,
        wanted: str | None,
        actor: str,
        reason: str,
        evidence: Mapping[str, Any],
        expected_epoch: int | None,
    ) -> ModelChange:
        with closing(self._connect()) as connection, transaction(connection), connection.cursor() as cursor:
            current, version = registry.settled(cursor, action, wanted, expected_epoch)
        if current is not None:  # else no scorer serves anything yet
            self.prepare(version)
        return self._decide(action, version, actor, reason, evidence, current.epoch if current else 0)

    def _decide(
        self,
        action: str,
        version: str | None,
        actor: str,
        reason: str,
        evidence: Mapping[str, Any],
        expected_epoch: int | None,
    ) -> ModelChange:
        changes: list[ModelChange] = []

        def write(cursor: Cursor) -> list[Outgoing]:
            row = registry.decide(
                cursor,
                action,
                version,
                actor=actor,
                reason=reason,
                evidence=evidence,
                expected_epoch=expected_epoch,
            )
            changes.append(registry.change_of(row))
            return [registry.announcement(row)]

        self._bus.write(write)
        return changes[-1]

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
