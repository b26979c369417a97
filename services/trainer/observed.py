"""What the triggers look at, read from the tables."""

from __future__ import annotations

from typing import Any, Final

from psycopg2.extensions import cursor as Cursor

from services.runtime import now_ms
from services.trainer import design, registry
from services.trainer.drift import WINDOW, Drift, Window, drift
from services.trainer.evaluations import Numbers
from services.trainer.progress import LOCK

REVIEWED: Final = 500
"""The newest random reviews, which tell how the champion does now."""

_FRESH: Final = (
    "FROM kept_word WHERE label IS NOT NULL AND NOT holdout"
    " AND position > (SELECT coalesce(max(upto), 0) FROM training_run WHERE state IN ('promoted', 'passed', 'refused'))"
    " AND NOT EXISTS (SELECT FROM quarantine WHERE state <> 'released' AND example_id = ANY(words))"
)
"""What is set aside teaches nothing, and so asks for no run."""


def fresh(cursor: Cursor) -> int:
    """Labels to learn from that came since the last run that came to its decision."""
    cursor.execute(f"SELECT count(*) {_FRESH}")
    return int(_one(cursor)[0])


def read(cursor: Cursor) -> Numbers:
    """Everything that `triggers.evaluate` takes."""
    champion = registry.champion(cursor)
    epoch = champion.epoch if champion else 0
    cursor.execute(f"SELECT count(*), count(*) FILTER (WHERE label <> predicted), min(given) {_FRESH}")
    new, contradicting, oldest = _one(cursor)
    cursor.execute(
        "SELECT max(finished) FILTER (WHERE state IN ('promoted', 'passed', 'refused')),"
        " max(finished) FILTER (WHERE state <> 'failed' OR detail->>'error' <> 'killed') FROM training_run"
    )
    decided, ended = _one(cursor)
    cursor.execute(
        "SELECT count(*) FILTER (WHERE label = predicted), count(*) FROM"
        " (SELECT label, predicted FROM word WHERE sampled AND epoch = %s ORDER BY position DESC LIMIT %s) newest",
        (epoch, REVIEWED),
    )
    right, sampled = _one(cursor)
    cursor.execute("SELECT count(DISTINCT cluster) FROM word WHERE holdout AND sampled")
    (held_out,) = _one(cursor)
    predictions, moved = _drift(cursor, epoch)
    return Numbers(
        at=now_ms(),
        fresh=new,
        contradicting=contradicting,
        since=oldest if decided is None else decided,
        ended=ended,
        running=_running(cursor),
        right=right,
        sampled=sampled,
        held_out=held_out,
        look=1 + design.looks(registry.ledger(cursor)),
        predictions=predictions,
        drift=moved,
    )


def _running(cursor: Cursor) -> bool:
    cursor.execute(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " AND (classid::bigint << 32 | objid::bigint) = %s)",
        (LOCK,),
    )
    return bool(_one(cursor)[0])


def _drift(cursor: Cursor, epoch: int) -> tuple[int, Drift | None]:
    """How many predictions the champion has made, up to two windows, and how far its last are from its first."""
    cursor.execute(
        "SELECT count(*) FROM (SELECT FROM prediction WHERE epoch = %s LIMIT %s) counted", (epoch, 2 * WINDOW)
    )
    (count,) = _one(cursor)
    if count < 2 * WINDOW:
        return count, None
    return count, drift(_window(cursor, epoch, newest=False), _window(cursor, epoch, newest=True))


def _window(cursor: Cursor, epoch: int, newest: bool) -> Window:
    cursor.execute(
        "SELECT greatest(negative, neutral, positive), label, language, source FROM prediction WHERE epoch = %s"  # noqa: S608
        f" ORDER BY position {'DESC' if newest else 'ASC'} LIMIT %s",
        (epoch, WINDOW),
    )
    return Window(*zip(*cursor.fetchall(), strict=True))


def _one(cursor: Cursor) -> Any:
    return cursor.fetchone()
