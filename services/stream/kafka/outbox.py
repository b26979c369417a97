"""Events that commit with rows: put in a table by the transaction, published from there by one relay, exactly once.

The relay's mark, the last published seq, commits in the Kafka transaction of the events themselves. What a crash leaves
between that commit and the rows' deletion lies at or below the mark, and is deleted unpublished.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from services.stream import metrics
from services.stream.bus import Headers, Journal, Outgoing
from services.stream.database import Connect, mapped, suppress_lost, transaction
from services.stream.errors import Misconfigured, Transient

RELAY_EVENTS: Final = 1_000
RELAY_BYTES: Final = 4_000_000
IDLE_S: Final = 0.03
"""Sleep after an empty look: one index probe, and what an event from a sink waits for at most."""
STANDBY_S: Final = 1.0

_HEAD = "UPDATE log.outbox_head SET next = next + %s RETURNING next - %s"
_PUT = "INSERT INTO log.outbox (seq, topic, partition, key, value, headers) VALUES %s"
_NEXT = """
SELECT seq, topic, partition, key, value, headers FROM (
    SELECT o.*, sum(octet_length(o.value)) OVER (ORDER BY o.seq) - octet_length(o.value) AS before
    FROM (SELECT * FROM log.outbox WHERE seq > %s ORDER BY seq LIMIT %s) o
) q WHERE before < %s ORDER BY seq
"""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Headers)


def put(cursor: Cursor, events: Sequence[Outgoing]) -> None:
    """Add events to the caller's transaction. Call it last: others that publish wait for the commit from here on."""
    if not events:
        return
    cursor.execute(_HEAD, (len(events), len(events)))
    (first,) = cursor.fetchone() or (0,)
    rows = [(first + i, e.topic, e.partition, e.key, e.value, _encoder.encode(e.headers)) for i, e in enumerate(events)]
    execute_values(cursor, _PUT, rows)


class Mark(NamedTuple):
    """How far a database's outbox is published; `epoch` names the database."""

    epoch: str
    seq: int

    def text(self) -> str:
        """As the journal stores it."""
        return f"{self.epoch}:{self.seq}"


class Relay:
    """Publishes the outbox while it holds the leader's lock.

    `open_journal` fences a relay that has lost the lock unawares. The lock's session ends with the connection.
    """

    def __init__(self, connect: Connect, open_journal: Callable[[], Journal], deployment: str) -> None:
        self._connect, self._open, self._lock = connect, open_journal, f"relay:{deployment}"

    def run(self, stop: threading.Event) -> None:
        """Lead or stand by until `stop` is set."""
        pause = IDLE_S
        while not stop.is_set():
            try:
                self._attend(stop)
                pause = IDLE_S
            except Transient:
                stop.wait(pause)
                pause = min(2 * pause, STANDBY_S)

    def _attend(self, stop: threading.Event) -> None:
        connection = self._connect()
        try:
            while not stop.is_set():
                if self._leads(connection):
                    self._lead(connection, stop)
                    return
                stop.wait(STANDBY_S)
        finally:
            with suppress_lost():
                connection.close()

    def _leads(self, connection: Connection) -> bool:
        with mapped():
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (self._lock,))
                return bool((cursor.fetchone() or (False,))[0])

    def _lead(self, connection: Connection, stop: threading.Event) -> None:
        journal = self._open()
        try:
            mark = self._resume(connection, journal)
            while not stop.is_set():
                after = self._step(connection, journal, mark)
                if after == mark:
                    stop.wait(IDLE_S)
                mark = after
        finally:
            journal.close()

    def _resume(self, connection: Connection, journal: Journal) -> Mark:
        epoch, newest = self._head(connection)
        known, _, seq = journal.mark.rpartition(":")
        mark = Mark(epoch, int(seq) if known == epoch else 0)
        if mark.seq > newest:
            raise Misconfigured(
                f"the log has events up to outbox seq {mark.seq}, the database only {newest}: it was restored from a"
                " backup older than the log; restore the log as well, or set log.outbox_head.next past it"
            )
        self._delete(connection, mark)
        return mark

    def _head(self, connection: Connection) -> tuple[str, int]:
        with transaction(connection), connection.cursor() as cursor:
            cursor.execute("SELECT epoch::text, next - 1 FROM log.outbox_head")
            epoch, newest = cursor.fetchone() or ("", 0)
        return epoch, newest

    def _step(self, connection: Connection, journal: Journal, mark: Mark) -> Mark:
        with mapped(), connection.cursor() as cursor:
            cursor.execute(_NEXT, (mark.seq, RELAY_EVENTS, RELAY_BYTES))
            rows = cursor.fetchall()
        if not rows:
            return mark
        after = Mark(mark.epoch, rows[-1][0])
        journal.publish([_event(*row[1:]) for row in rows], after.text())
        metrics.RELAYED.inc(len(rows))
        self._delete(connection, after)
        return after

    def _delete(self, connection: Connection, mark: Mark) -> None:
        with mapped(), connection.cursor() as cursor:
            cursor.execute("DELETE FROM log.outbox WHERE seq <= %s", (mark.seq,))


def _event(topic: str, partition: int | None, key: memoryview, value: memoryview, headers: memoryview) -> Outgoing:
    return Outgoing(topic, bytes(key), bytes(value), _decoder.decode(headers), partition)
