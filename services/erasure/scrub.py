"""Rewriting PostgreSQL's files, so that nothing deleted is left in them.

A deleted row stays in its table's file until something is written over it, VACUUM or not, and in the write-ahead log,
whose old segments are kept under new names to be written over (`wal_recycle`). VACUUM FULL writes each table anew; the
log is switched and checkpointed, with recycling off, until no segment is left that was there before. What the file
system, a replica, an archive or a backup keeps is theirs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Final

import psycopg2
from psycopg2.extensions import connection as Connection

from services.stream.database import Connect, mapped
from services.stream.errors import Misconfigured, Transient

TABLES: Final = (
    "text", "comment", "claim", "story", "annotator", "api_key", "log.chunk", "log.outbox",
)  # fmt: skip
"""What an erasure deletes from, and the log, whose records it empties."""
PATIENCE_S: Final = 120.0
RELOAD_S: Final = 1.0
"""The checkpointer reads its settings when it is told to, and nobody can ask it whether it has."""


def scrub(connect: Connect, say: Callable[[str], None]) -> None:
    """Rewrite them. Each table is locked for as long as it takes to write it anew: the services wait meanwhile.

    Raises:
        Misconfigured: the user of the database may not do it.
        Transient: the server is away, or old segments stay since something keeps them (a replica's slot, an archive).
    """
    with closing(connect()) as connection:
        connection.autocommit = True
        try:
            with mapped():
                for table in TABLES:
                    say(f"rewriting {table}")
                    _run(connection, f"VACUUM (FULL) {table}")
                say("dropping the write-ahead log so far")
                _renew_log(connection)
        except psycopg2.errors.InsufficientPrivilege as error:
            message = str(error).strip()
            raise Misconfigured(f"{message}; scrubbing takes a superuser: name one in TICKERLOOP_DATABASE") from error


def _renew_log(connection: Connection) -> None:
    """Until no segment is left of those that there are now, the ones kept for later included."""
    _run(connection, "ALTER SYSTEM SET wal_recycle = off")
    try:
        _run(connection, "SELECT pg_reload_conf()")
        time.sleep(RELOAD_S)
        before = _segments(connection)
        for _ in before:  # each switch uses one up; of an empty one nothing is switched, so something is written first
            _run(connection, "SELECT pg_logical_emit_message(false, 'tickerloop', 'scrub')")
            _run(connection, "SELECT pg_switch_wal()")
        deadline = time.monotonic() + PATIENCE_S
        while not before.isdisjoint(_segments(connection)):
            if time.monotonic() > deadline:
                raise Transient("PostgreSQL keeps old segments of its log: is there a replication slot, or an archive?")
            _run(connection, "SELECT pg_logical_emit_message(false, 'tickerloop', 'scrub')")
            _run(connection, "CHECKPOINT")
    finally:
        with suppress(psycopg2.Error):
            _run(connection, "ALTER SYSTEM RESET wal_recycle")
            _run(connection, "SELECT pg_reload_conf()")


def _segments(connection: Connection) -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM pg_ls_waldir()")
        return {name for (name,) in cursor.fetchall()}


def _run(connection: Connection, statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)
