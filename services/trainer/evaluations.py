"""Looks at the triggers, and their record: each that came to another answer, and one every few minutes."""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from psycopg2.extensions import cursor as Cursor

from services.trainer.drift import Drift

Trigger = Literal["", "volume", "time", "drift", "accuracy", "command"]

EVERY_MS: Final = 10 * 60 * 1000
"""A look is written at least so often, though nothing has changed."""
KEPT: Final = 2_000
"""The newest rows: two weeks where nothing changes."""

_COLUMNS: Final = "at, train, trigger, holds, reason, numbers"


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    """What the triggers look at. Times are ms since the epoch."""

    at: int
    fresh: int
    """Labels to learn from that came since the last run that came to its decision."""
    contradicting: int
    """Of these, those that differ from the prediction."""
    since: int | None
    """The end of that run; before the first, when the oldest of the labels was given. None while there is nothing."""
    ended: int | None
    """The end of the last run that decided or failed; one that was killed is no reason to wait."""
    running: bool
    right: int
    sampled: int
    """The champion's last answers that were reviewed at random, at most `observed.REVIEWED`, and how many are right."""
    held_out: int
    """Held-out texts with labels that measure."""
    look: int
    """The gate's next one, see `design.looks`."""
    predictions: int
    """Of the champion since its promotion, counted up to two windows."""
    drift: Drift | None
    """None before there are two windows."""


class Evaluation(msgspec.Struct, frozen=True):
    """One look at the triggers. `trigger` is the one that asks for a run, empty where none does."""

    at: int
    train: bool
    trigger: Trigger
    holds: tuple[str, ...]
    """Names of the triggers and hindrances that hold."""
    reason: str
    numbers: Numbers


def record(cursor: Cursor, evaluation: Evaluation) -> bool:
    """Write it, if it says something new or the last one is old; whether it was written."""
    last = latest(cursor, 1)
    if last and evaluation.trigger != "command" and not _news(last[0], evaluation):
        return False
    values = (*msgspec.structs.astuple(evaluation)[:3], list(evaluation.holds), evaluation.reason)
    cursor.execute(
        f"INSERT INTO trigger_evaluation ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s) RETURNING evaluation",  # noqa: S608
        (*values, msgspec.json.encode(evaluation.numbers).decode()),
    )
    (newest,) = cursor.fetchone() or (0,)
    cursor.execute("DELETE FROM trigger_evaluation WHERE evaluation <= %s", (newest - KEPT,))
    return True


def _news(last: Evaluation, now: Evaluation) -> bool:
    said = (last.train, last.trigger, last.holds) == (now.train, now.trigger, now.holds)
    return not said or now.at - last.at >= EVERY_MS


def latest(cursor: Cursor, limit: int) -> list[Evaluation]:
    """The newest first."""
    cursor.execute(
        f"SELECT {_COLUMNS} FROM trigger_evaluation ORDER BY evaluation DESC LIMIT %s",  # noqa: S608 (a constant)
        (limit,),
    )
    return [msgspec.convert(dict(zip(_COLUMNS.split(", "), row, strict=True)), Evaluation) for row in cursor.fetchall()]
