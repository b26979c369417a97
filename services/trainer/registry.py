"""The model registry and the promotion ledger.

Model files lie in Postgres by content hash, so that a scorer on another machine gets them too. The ledger is
append-only (the database refuses anything else) and each row carries the hash of the row before. Every change of the
champion, and of what shadows it, is one ledger row and one record in `models`, in one effect; its epoch is the row's
number.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, cast

import msgspec
from psycopg2 import Binary
from psycopg2.extensions import cursor as Cursor

from services.runtime import now_ms
from services.stream import topics
from services.stream.bus import Bus, Outgoing, Record, read_to_end
from services.stream.errors import Rejected
from services.stream.events import ModelAction, ModelChange, decode, encode

PART_BYTES: Final = 1 << 20
GENESIS: Final = "0" * 64

CARD: Final = "model.json"
"""The file that is shown as a version's card."""

CHANGES: Final = ("promote", "rollback")
"""Actions that change the champion."""
TOLD: Final = (*CHANGES, "shadow", "unshadow", "withdraw")
"""Actions that scorers follow, and so are told in `models`; the others are on record only."""

GATE: Final = "trainer"
"""The actor of the gate's decisions."""
WATCH: Final = "watch"
"""The actor of rollbacks by what readers' labels say of a champion afterwards."""


class Conflict(Rejected):
    """The champion or the epoch is not what the caller expected; look again before deciding."""

    def __init__(self, detail: str) -> None:
        super().__init__("conflict", detail)


class Champion(msgspec.Struct, frozen=True):
    """The model in service and the ledger row that put it there."""

    epoch: int
    version: str


class Version(msgspec.Struct, frozen=True):
    """A registered model. `card` is its `model.json`."""

    version: str
    parent: str | None
    card: dict[str, Any]
    created: int
    champion: bool
    shadow: bool
    """It scores a sample of the stream beside the champion now."""


class LedgerRow(msgspec.Struct, frozen=True):
    """One decision. `hash` covers all other fields; `previous` is the hash of the row before."""

    epoch: int
    action: str
    version: str
    champion: str | None
    actor: str
    reason: str
    evidence: dict[str, Any]
    at: int
    previous: str
    hash: str


_ROW: Final = "epoch, action, version, champion, actor, reason, evidence, at, previous, hash"


def register(cursor: Cursor, version: str, parent: str | None, files: Mapping[str, bytes]) -> None:
    """Store a model's files by name, among them its card; registering the same version again changes and sends
    nothing."""
    cursor.execute("SELECT FROM model_version WHERE version = %s", (version,))
    if cursor.fetchone() is not None:
        return
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    for name, content in files.items():
        digest = digests[name]
        for part in range(0, max(1, len(content)), PART_BYTES):
            cursor.execute(
                "INSERT INTO model_blob (sha256, part, bytes) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                (digest, part // PART_BYTES, Binary(content[part : part + PART_BYTES])),
            )
    cursor.execute(
        "INSERT INTO model_version (version, parent, card, files, created) VALUES (%s, %s, %s, %s, %s)"
        " ON CONFLICT DO NOTHING",
        (version, parent, json.dumps(json.loads(files[CARD])), json.dumps(digests), now_ms()),
    )


def fetch(cursor: Cursor, version: str, cache: Path) -> Path:
    """The folder of a version's files under `cache`, written from the database where it isn't there yet.

    Raises:
        Rejected: the version is unknown, or a file's content doesn't have its hash.
    """
    cursor.execute("SELECT files FROM model_version WHERE version = %s", (version,))
    row = cursor.fetchone()
    if row is None:
        raise _unknown(version)
    folder = cache / version
    for name, digest in row[0].items():
        path = folder / name
        if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == digest:
            continue
        cursor.execute("SELECT bytes FROM model_blob WHERE sha256 = %s ORDER BY part", (digest,))
        content = b"".join(bytes(part) for (part,) in cursor.fetchall())
        if hashlib.sha256(content).hexdigest() != digest:
            raise Rejected("tampered", f"{name} of model {version} does not have its recorded hash")
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{name}.{os.getpid()}.{now_ms()}"
        partial.write_bytes(content)
        partial.rename(path)
    return folder


def versions(cursor: Cursor) -> list[Version]:
    """All registered models, newest first."""
    current, beside = champion(cursor), shadow(cursor)
    cursor.execute("SELECT version, parent, card, created FROM model_version ORDER BY created DESC, version")
    return [
        Version(
            version,
            parent,
            card,
            created,
            champion=current is not None and current.version == version,
            shadow=beside is not None and beside.version == version,
        )
        for version, parent, card, created in cursor.fetchall()
    ]


def registered(cursor: Cursor, version: str) -> Version:
    """One of `versions`.

    Raises:
        Rejected: the version is unknown.
    """
    for found in versions(cursor):
        if found.version == version:
            return found
    raise _unknown(version)


def _unknown(version: str) -> Rejected:
    return Rejected("unknown", f"there is no model {version}; `tickerloop models list` shows them")


def champion(cursor: Cursor) -> Champion | None:
    """The model in service; None before the first promotion."""
    cursor.execute(
        "SELECT epoch, version FROM ledger WHERE action IN ('promote', 'rollback') ORDER BY epoch DESC LIMIT 1"
    )
    row = cursor.fetchone()
    return Champion(*row) if row else None


class Decided(Protocol):
    """A row of the ledger, or its record in `models`."""

    @property
    def epoch(self) -> int:
        """Its number."""

    @property
    def action(self) -> str:
        """What was done."""


D = TypeVar("D", bound=Decided)


def shadowing(decisions: Iterable[D]) -> D | None:
    """The decision by which a model shadows the champion now: the newest of those that are told, if it is one, since
    each of the others ends it."""
    newest = max((found for found in decisions if found.action in TOLD), key=lambda found: found.epoch, default=None)
    return newest if newest is not None and newest.action == "shadow" else None


def shadow(cursor: Cursor) -> LedgerRow | None:
    """See `shadowing`."""
    cursor.execute(f"SELECT {_ROW} FROM ledger WHERE action = ANY(%s) ORDER BY epoch DESC LIMIT 1", (list(TOLD),))  # noqa: S608
    return shadowing(map(_row, cursor.fetchall()))


def ledger(cursor: Cursor) -> list[LedgerRow]:
    """Every decision, oldest first."""
    cursor.execute(f"SELECT {_ROW} FROM ledger ORDER BY epoch")  # noqa: S608 (a constant)
    return [_row(row) for row in cursor.fetchall()]


def _row(row: tuple[Any, ...]) -> LedgerRow:
    return LedgerRow(**dict(zip(LedgerRow.__struct_fields__, row, strict=True)) | {"evidence": _evidence(row[6])})


def _evidence(text: str) -> dict[str, Any]:
    # What was altered into no JSON object must not keep the rest from being read; its hash tells of it.
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {"unreadable": text}


def row_hash(row: LedgerRow) -> str:
    """SHA-256 over the row's other fields as a JSON array with sorted keys."""
    fields = [getattr(row, name) for name in LedgerRow.__struct_fields__ if name != "hash"]
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def verify(rows: list[LedgerRow], announced: Sequence[ModelChange] | None = None) -> list[str]:
    """What is wrong with the chain, row by row, and between it and what `models` holds; empty when all is well.

    The chain alone can't tell that its last rows are gone, or that all of it was written anew.
    """
    problems = [] if announced is None else _differences(rows, announced)
    previous = GENESIS
    for number, row in enumerate(rows, start=1):
        if row.epoch != number:
            problems.append(f"row {number}: its epoch is {row.epoch}; a row is missing or was added")
        if row.previous != previous:
            problems.append(f"row {row.epoch}: it does not follow the row before it")
        if row.hash != row_hash(row):
            problems.append(f"row {row.epoch}: its content was changed after it was written")
        previous = row.hash
    return problems


def announced(bus: Bus) -> list[ModelChange]:
    """What `models` holds, which is kept for ever.

    Raises:
        Transient: its end can't be reached.
    """
    with closing(bus.reader([topics.MODELS])) as reader:
        return changes(read_to_end(reader, bus.ends(topics.MODELS)))


def changes(records: Iterable[Record]) -> list[ModelChange]:
    """The records of `models`, without what a stranger may have put there that is no change."""
    found = []
    for record in records:
        with suppress(Rejected):
            found.append(decode(ModelChange, record.value))
    return found


def _differences(rows: Sequence[LedgerRow], announced: Sequence[ModelChange]) -> list[str]:
    written = [change_of(row) for row in rows if row.action in TOLD]
    gone = [
        f"row {change.epoch}: `models` tells of a {change.action} of {change.version}; the row is gone or says another"
        for change in announced
        if change not in written
    ]
    untold = [
        f"row {change.epoch}: `models` has no {change.action} of {change.version}; on Kafka the relay may be behind"
        for change in written
        if change not in announced
    ]
    return gone + untold


def settled(
    cursor: Cursor, action: str, version: str | None, expected_epoch: int | None
) -> tuple[Champion | None, str]:
    """The champion as it is now, and the version that the action is about; None takes the one before the champion, what
    shadows it, or, for a pin, the champion itself.

    Raises:
        Conflict: `expected_epoch` is given and the champion's epoch is another by now; the version is the champion, or
            its shadow, already; there is none before it, no shadow to end, or no champion to shadow.
        Rejected: the version is unknown.
    """
    current = champion(cursor)
    if expected_epoch is not None and expected_epoch != (current.epoch if current else 0):
        raise Conflict(f"the champion's epoch is {current.epoch if current else 0}, not {expected_epoch}")
    if version is None:
        version = _meant(cursor, action, current)
    elif action in ("promote", "shadow") and current is not None and current.version == version:
        raise Conflict(f"{version} is the champion already")
    elif action == "shadow":
        _free_to_shadow(cursor, current, version)
    cursor.execute("SELECT 1 FROM model_version WHERE version = %s", (version,))
    if cursor.fetchone() is None:
        raise _unknown(version)
    return current, version


def _meant(cursor: Cursor, action: str, current: Champion | None) -> str:
    if action == "rollback":
        return _before(ledger(cursor))
    if action == "unshadow":
        return _shadow(cursor)
    if current is None:
        raise Conflict("there is no champion yet")
    return current.version


def _shadow(cursor: Cursor) -> str:
    found = shadow(cursor)
    if found is None:
        raise Conflict("no model shadows the champion")
    return found.version


def _free_to_shadow(cursor: Cursor, current: Champion | None, version: str) -> None:
    if current is None:
        raise Conflict("there is no champion to shadow")
    found = shadow(cursor)
    if found is not None and found.version == version:
        raise Conflict(f"{version} shadows the champion already")


def lock(cursor: Cursor) -> None:
    """Nobody else decides until the transaction's end: what is read from here on is what the decision rests on."""
    cursor.execute("LOCK TABLE ledger IN EXCLUSIVE MODE")


def decide(
    cursor: Cursor,
    action: str,
    version: str | None,
    *,
    actor: str,
    reason: str,
    evidence: Mapping[str, Any],
    expected_epoch: int | None = None,
) -> LedgerRow:
    """Append one row in the caller's transaction; the ledger is locked until its commit.

    Raises:
        Conflict, Rejected: see `settled`.
    """
    lock(cursor)
    current, version = settled(cursor, action, version, expected_epoch)
    cursor.execute("SELECT epoch, hash FROM ledger ORDER BY epoch DESC LIMIT 1")
    last, previous = cursor.fetchone() or (0, GENESIS)
    row = LedgerRow(
        epoch=last + 1,
        action=action,
        version=version,
        champion=current.version if current else None,
        actor=actor,
        reason=reason,
        evidence=dict(evidence),
        at=now_ms(),
        previous=previous,
        hash="",
    )
    row = msgspec.structs.replace(row, hash=row_hash(row))
    values = [json.dumps(v) if isinstance(v, dict) else v for v in msgspec.structs.astuple(row)]
    cursor.execute(f"INSERT INTO ledger ({_ROW}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)", values)  # noqa: S608
    return row


def change_of(row: LedgerRow) -> ModelChange:
    """What a row whose action is `TOLD` tells the scorers."""
    action = cast(ModelAction, row.action)
    return ModelChange(epoch=row.epoch, version=row.version, action=action, previous=row.champion, at=row.at)


def announcement(row: LedgerRow) -> Outgoing:
    """The record in `models` that goes with a row, in the same effect."""
    return Outgoing(topics.MODELS, row.version.encode(), encode(change_of(row)))


def _before(rows: list[LedgerRow]) -> str:
    stack: list[str] = []
    for row in rows:
        if row.action == "promote":
            stack.append(row.version)
        elif row.action == "rollback" and stack:
            stack.pop()
    if len(stack) < 2:
        raise Conflict("there is no earlier champion to go back to")
    return stack[-2]
