"""How far a training run is: written into its row by the run, read by `tickerloop status`, the trainer and the page."""

from __future__ import annotations

import json
import time
from typing import Final

import msgspec
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from services.settings import Method
from services.stream.database import transaction
from services.stream.membership import lock_key

LOCK: Final = lock_key("training")
"""Of the advisory lock that a run holds on its own session: it is free once the run is over or dead."""
EVERY_S: Final = 1.0


class Stage(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a run is at; all that follows `method` is of a tuning."""

    stage: str
    method: Method
    step: int | None = None
    of: int | None = None
    loss: float | None = None
    eta_s: int | None = None
    """Seconds that the tuning takes yet, at most."""


class Training(msgspec.Struct, frozen=True):
    """The run under way. `detail` holds what it learns from, and its `Stage`."""

    run: int
    trigger: str
    started: int
    detail: dict[str, object]

    @property
    def words(self) -> str:
        """In one line."""
        if "stage" not in self.detail:
            return f"training ({self.trigger}): starting"
        at = msgspec.convert(self.detail, Stage)
        line = f"training ({self.trigger}, {at.method}): {at.stage}"
        if at.step is None:
            return line
        return f"{line}, step {at.step} of {at.of}, loss {at.loss}, {at.eta_s} s left at most"


class Report:
    """Writes a run's stage into its row: a new one at once, and then once a second."""

    def __init__(self, connection: Connection, run: int) -> None:
        self._connection, self._run = connection, run
        self._stage, self._due = "", 0.0

    def __call__(self, at: Stage) -> None:
        """Say where it is.

        Raises:
            Transient: the database is away, and the run's lock with it.
        """
        if at.stage == self._stage and time.monotonic() < self._due:
            return
        self._stage, self._due = at.stage, time.monotonic() + EVERY_S
        with transaction(self._connection), self._connection.cursor() as cursor:
            cursor.execute(
                "UPDATE training_run SET detail = detail - %s || %s WHERE run = %s",
                (list(Stage.__struct_fields__), json.dumps(msgspec.to_builtins(at)), self._run),
            )


def under_way(cursor: Cursor) -> Training | None:
    """The run that holds the lock, if one does."""
    cursor.execute(
        "SELECT run, trigger, started, detail FROM training_run WHERE state = 'running' AND EXISTS ("
        "SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1"
        " AND classid::bigint << 32 | objid::bigint = %s"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
        " ORDER BY run DESC LIMIT 1",
        (LOCK,),
    )
    row = cursor.fetchone()
    return Training(*row) if row else None
