"""A request, what came of it, and its record."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Final, Literal, NamedTuple

import msgspec
from psycopg2.extensions import cursor as Cursor

from services.lineage.learned import heirs, learners, nearest_clear
from services.runtime import now_ms
from services.trainer import registry

Kind = Literal["text", "annotator"]

ASKED: Final = "asked"
"""Of a retraining that the trainer has yet to take up."""

NOT_COVERED: Final = (
    "files and exports that people made themselves, backups, replicas, and other systems' logs",
    "bytes of PostgreSQL's files that nothing was written over yet: `tickerloop erase scrub` rewrites them",
)


class Request(NamedTuple):
    """By whom, and how. `dry` only looks; `retrain` asks the trainer for a model that never learned from it."""

    actor: str
    dry: bool = False
    retrain: bool = False


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """What was erased, or would be; without any of its content."""

    kind: Kind
    subjects: list[str]
    """Ids of the text and of its copies, or an annotator's pseudonym."""
    rows: dict[str, int]
    """By table; `valkey` counts keys."""
    records: dict[str, int] = {}
    """By topic: those that held the text."""
    emptied: int = 0
    """Of the records, those that are gone at once."""
    gone_by: int | None = None
    """When the retention will have taken the others, in ms since the epoch; Kafka may take a log segment longer."""
    versions: list[str] = []
    """Models that learned from it."""
    inherited: list[str] = []
    """Models that were trained on from one of them."""
    retrain: str | None = None
    """`asked`, where the trainer was asked for a model that never learned from it."""
    notes: tuple[str, ...] = NOT_COVERED
    """What it doesn't reach."""


def traced(cursor: Cursor, erasure: Erasure, examples: Collection[str], how: Request) -> Erasure:
    """With the models that learned from these examples, and whether to train without them."""
    versions = learners(cursor, examples)
    found = msgspec.structs.replace(erasure, versions=versions, inherited=heirs(cursor, versions))
    return msgspec.structs.replace(found, retrain=ASKED) if how.retrain and versions else found


def record(cursor: Cursor, erasure: Erasure, actor: str) -> None:
    """Keep that it was done: what, when, by whom."""
    cursor.execute(
        "INSERT INTO erasure (kind, subjects, actor, at, counts, versions, inherited, gone_by, retrain)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            erasure.kind,
            erasure.subjects,
            actor,
            now_ms(),
            json.dumps({"rows": erasure.rows, "records": erasure.records}),
            erasure.versions,
            erasure.inherited,
            erasure.gone_by,
            erasure.retrain,
        ),
    )


class Retraining(NamedTuple):
    """Asked for. `start` is the version to train on from, which learned from nothing that was erased; None where there
    is no such version."""

    erasures: list[int]
    start: str | None


def asked(cursor: Cursor) -> Retraining | None:
    """What the trainer was asked for and has yet to do, all of it in one."""
    cursor.execute("SELECT array_agg(erasure ORDER BY erasure) FROM erasure WHERE retrain = %s", (ASKED,))
    (waiting,) = cursor.fetchone() or (None,)
    champion = registry.champion(cursor)
    if not waiting or champion is None:
        return None
    cursor.execute("SELECT DISTINCT unnest(versions) FROM erasure")
    versions = [version for (version,) in cursor.fetchall()]
    touched = {*versions, *heirs(cursor, versions)}  # heirs made since then, too
    return Retraining(waiting, nearest_clear(cursor, champion.version, touched))


def answer(cursor: Cursor, retraining: Retraining, came_of_it: str) -> None:
    """Write what came of a retraining."""
    cursor.execute("UPDATE erasure SET retrain = %s WHERE erasure = ANY(%s)", (came_of_it, retraining.erasures))
