"""The embedded bus: a log in PostgreSQL (`schemas/sql/0001_log.sql`).

Whatever a step publishes, the rows it writes and the offsets it consumed commit in one synchronous transaction. Heads
are locked last and for the commit only. Readers wake by NOTIFY sent after the commit (inside it, all commits of the
server would queue) and poll as well, since a notice may be lost.
"""

from __future__ import annotations

import select
import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from services.stream import bus
from services.stream.bus import Batch, Marks, Outgoing, Record, TopicPartition, Write, check_size, partition_of
from services.stream.chunks import Chunk, emptied, pack, unpack
from services.stream.database import Connect, mapped, suppress_lost
from services.stream.errors import Fenced, Misconfigured, Transient, Truncated
from services.stream.membership import Lease, Member
from services.stream.topics import Topic, catalogue

POLL_S: Final = 0.5
"""Longest sleep between two looks when no notice comes: its writer died between commit and notice."""
FETCH_BYTES: Final = 8_000_000
"""Most that one look fetches, over all partitions; a chunk begun is fetched whole."""
FETCH_CHUNKS: Final = 512

# Bounds hold for each partition, so that few chunks are looked at, and for all together, in the order asked for.
# Prepared once per connection: planning it takes twice as long as looking where nothing is new, and each event makes
# several readers look.
_FETCH = """
PREPARE log_fetch (text[], int[], bigint[], int, int, int) AS
SELECT topic, partition, position, oldest, upto, first, at_ms, payload FROM (
    SELECT p.*, h.oldest, h.next AS upto, c.*,
           sum(c.size) OVER w - c.size AS bytes, sum(c.count) OVER w - c.count AS records
    FROM unnest($1, $2, $3)
         WITH ORDINALITY AS p (topic, partition, position, turn)
    JOIN log.head h ON h.topic = p.topic AND h.partition = p.partition
    LEFT JOIN LATERAL (
        SELECT q.first, q.at_ms, q.payload, q.size, q.last + 1 - greatest(q.first, p.position) AS count FROM (
            SELECT k.first, k.last, k.at_ms, k.size, k.payload, sum(k.size) OVER (ORDER BY k.last) - k.size AS before
            FROM log.chunk k
            WHERE k.topic = p.topic AND k.partition = p.partition AND k.last >= p.position
            ORDER BY k.last LIMIT $4
        ) q WHERE q.before < $5 AND q.first - p.position < $6
    ) c ON true
    WINDOW w AS (ORDER BY p.turn, c.first)
) f
WHERE first IS NULL OR (bytes < $5 AND records < $6)
ORDER BY turn, first
"""

_ADVANCE = """
UPDATE log.position s SET position = v.upto, mark = v.mark
FROM unnest(%s::text[], %s::int[], %s::bigint[], %s::bigint[], %s::bigint[], %s::text[])
     AS v (topic, partition, position, generation, upto, mark)
WHERE s.grp = %s AND s.topic = v.topic AND s.partition = v.partition
  AND s.position = v.position AND s.generation = v.generation
"""


class _Step(NamedTuple):
    """Token of a batch: for each partition the lease it was read under and the position after it."""

    lease: Lease
    upto: int


class PostgresBus:
    """The `Bus` of one machine. `connect` opens connections to the database that holds the log."""

    def __init__(self, connect: Connect, partitions: int = 4, topics: Sequence[Topic] = catalogue()) -> None:
        self._connect = connect
        self._partitions = partitions
        self._topics = {topic.name: topic for topic in topics}
        self._connection: Connection | None = None
        self._counts: dict[str, int] = {}

    # ── topics ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def create_topics(self) -> None:
        """See `Bus`. The partition count of an existing topic stays as it is: keys must not move."""
        with _Transaction(self._own()) as cursor:
            for topic in self._topics.values():
                count = 1 if topic.single else self._partitions
                cursor.execute(
                    "INSERT INTO log.topic (topic, partitions, retention_ms, max_bytes) VALUES (%s, %s, %s, %s)"
                    " ON CONFLICT (topic) DO UPDATE SET retention_ms = excluded.retention_ms,"
                    " max_bytes = excluded.max_bytes RETURNING partitions",
                    (topic.name, count, topic.retention_ms, topic.max_bytes),
                )
                (count,) = cursor.fetchone() or (count,)
                cursor.execute(
                    "INSERT INTO log.head (topic, partition) SELECT %s, generate_series(0, %s - 1)"
                    " ON CONFLICT DO NOTHING",
                    (topic.name, count),
                )

    def partitions(self, topic: str) -> int:
        """See `Bus`."""
        if topic not in self._counts:
            self._counts = self._count_partitions()
        if topic not in self._counts:
            raise Misconfigured(f"topic {topic} does not exist; `tickerloop up` or `tickerloop migrate` creates it")
        return self._counts[topic]

    def _count_partitions(self) -> dict[str, int]:
        # On a connection of its own: `write` may have a transaction open on ours.
        connection = self._connect()
        try:
            with _Transaction(connection) as cursor:
                cursor.execute("SELECT topic, partitions FROM log.topic")
                return dict(cursor.fetchall())
        finally:
            with suppress_lost():
                connection.close()

    def places(self, topics: Sequence[str]) -> list[TopicPartition]:
        """Every partition of `topics`."""
        return [TopicPartition(topic, p) for topic in topics for p in range(self.partitions(topic))]

    # ── producing ───────────────────────────────────────────────────────────────────────────────────────────────────

    def publish(self, events: Sequence[Outgoing]) -> Sequence[tuple[TopicPartition, int]]:
        """See `Bus`."""
        chunks = self.chunks(events)
        connection = self._own()
        with _Transaction(connection) as cursor:
            placed = append(cursor, chunks)
        self.notify(connection, chunks)
        return placed

    def write(self, write: Write) -> None:
        """See `Bus`."""
        connection = self._own()
        with _Transaction(connection) as cursor:
            chunks = self.chunks(write(cursor))
            append(cursor, chunks)
        self.notify(connection, chunks)

    def chunks(self, events: Sequence[Outgoing]) -> list[Chunk]:
        """Check sizes, choose partitions and pack.

        Raises:
            Rejected: an event is larger than its topic takes.
            Misconfigured: there is no such topic.
        """
        places = []
        for event in events:
            count = self.partitions(event.topic)
            check_size(event, Topic(event.topic, None).max_bytes)
            chosen = event.partition if event.partition is not None else partition_of(event.key, count)
            places.append(TopicPartition(event.topic, chosen))
        return pack(events, places)

    def notify(self, connection: Connection, chunks: Sequence[Chunk]) -> None:
        """Wake readers, after the commit: a notice inside it would make all commits of the database queue up."""
        topics = sorted({chunk.place.topic for chunk in chunks})
        if not topics:
            return
        with suppress_lost(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify(unnest(%s::text[]), '')", (topics,))

    # ── consuming ───────────────────────────────────────────────────────────────────────────────────────────────────

    def consumer(
        self, group: str, topics: Sequence[str], slot: int = 0, max_records: int = 500, sinks: bool = False
    ) -> PostgresConsumer:
        """See `Bus`. Rows and offsets share a transaction here in any case, so `sinks` makes no difference."""
        del sinks
        return PostgresConsumer(self, self._connect, group, topics, slot, max_records)

    def reader(self, topics: Sequence[str], start: Mapping[TopicPartition, int] | None = None) -> PostgresReader:
        """See `Bus`."""
        return PostgresReader(self, self._connect, topics, start or {})

    def journal(self, name: str, topic: str) -> PostgresJournal:
        """See `Bus`."""
        return PostgresJournal(self, self._connect, name, topic)

    # ── positions ───────────────────────────────────────────────────────────────────────────────────────────────────

    def identity(self, topic: str) -> str:
        """See `Bus`. Offsets lie beside what is counted by them, in one database."""
        del topic
        return "embedded"

    def begins(self, topic: str) -> Mapping[TopicPartition, int]:
        """See `Bus`."""
        return self._places("SELECT topic, partition, oldest FROM log.head WHERE topic = %s", (topic,))

    def ends(self, topic: str) -> Mapping[TopicPartition, int]:
        """See `Bus`."""
        return self._places("SELECT topic, partition, next FROM log.head WHERE topic = %s", (topic,))

    def offsets_at(self, topic: str, at_ms: int) -> Mapping[TopicPartition, int]:
        """See `Bus`."""
        return self._places(
            "SELECT h.topic, h.partition, coalesce((SELECT min(c.first) FROM log.chunk c WHERE c.topic = h.topic"
            " AND c.partition = h.partition AND c.at_ms >= %s), h.next) FROM log.head h WHERE h.topic = %s",
            (at_ms, topic),
        )

    def committed(self, group: str, topic: str) -> Mapping[TopicPartition, int]:
        """See `Bus`."""
        return self._places(
            "SELECT topic, partition, position FROM log.position WHERE grp = %s AND topic = %s", (group, topic)
        )

    def seek(self, group: str, positions: Mapping[TopicPartition, int]) -> None:
        """See `Bus`. Bumping the generation fences a live owner, which then goes on from the new position."""
        with _Transaction(self._own()) as cursor:
            for place, position in sorted(positions.items()):
                cursor.execute(
                    "INSERT INTO log.position (grp, topic, partition, position, generation) VALUES (%s, %s, %s, %s, 1)"
                    " ON CONFLICT (grp, topic, partition) DO UPDATE"
                    " SET position = excluded.position, generation = position.generation + 1",
                    (group, *place, position),
                )

    def erase(self, records: Sequence[Record]) -> int:
        """See `Bus`. Each chunk is rewritten in a transaction of its own; what retention has taken since is gone."""
        wanted: dict[TopicPartition, list[int]] = {}
        for record in records:
            wanted.setdefault(TopicPartition(record.topic, record.partition), []).append(record.offset)
        return sum(self._erase(place, sorted(offsets)) for place, offsets in wanted.items())

    def _erase(self, place: TopicPartition, offsets: list[int]) -> int:
        erased = 0
        while offsets:
            with _Transaction(self._own()) as cursor:
                cursor.execute(
                    "SELECT first, last, payload FROM log.chunk WHERE topic = %s AND partition = %s AND last >= %s"
                    " ORDER BY last LIMIT 1 FOR UPDATE",
                    (*place, offsets[0]),
                )
                first, last, payload = cursor.fetchone() or (offsets[-1] + 1, offsets[-1], b"")
                inside = [offset for offset in offsets if first <= offset <= last]
                payload, count = emptied(payload, first, inside) if inside else (payload, 0)
                erased += count
                if count:
                    cursor.execute(
                        "UPDATE log.chunk SET payload = %s, size = %s"
                        " WHERE topic = %s AND partition = %s AND last = %s",
                        (psycopg2.Binary(payload), len(payload), *place, last),
                    )
            offsets = [offset for offset in offsets if offset > last]
        return erased

    def expire(self) -> int:
        """See `Bus`. Arrival times never run backwards in a partition, so what is old is a prefix."""
        dropped = 0
        for topic in self._topics.values():
            if topic.retention_ms is None:
                continue
            for place in self.places([topic.name]):
                with _Transaction(self._own()) as cursor:
                    cursor.execute(
                        "WITH gone AS (DELETE FROM log.chunk WHERE topic = %s AND partition = %s"
                        " AND at_ms < extract(epoch FROM clock_timestamp()) * 1000 - %s RETURNING first, last)"
                        " UPDATE log.head h SET oldest = g.upto"
                        " FROM (SELECT max(last) + 1 AS upto, sum(last - first + 1) AS n FROM gone) g"
                        " WHERE h.topic = %s AND h.partition = %s AND g.upto IS NOT NULL RETURNING g.n",
                        (*place, topic.retention_ms, *place),
                    )
                    dropped += int((cursor.fetchone() or (0,))[0])
        return dropped

    def close(self) -> None:
        """See `Bus`."""
        if self._connection is not None:
            with suppress_lost():
                self._connection.close()
            self._connection = None

    # ── the bus's own connection ────────────────────────────────────────────────────────────────────────────────────

    def _own(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
        return self._connection

    def _rows(self, query: str, arguments: tuple[object, ...]) -> list[tuple[object, ...]]:
        with _Transaction(self._own()) as cursor:
            cursor.execute(query, arguments)
            return cursor.fetchall()

    def _places(self, query: str, arguments: tuple[object, ...]) -> dict[TopicPartition, int]:
        return {
            TopicPartition(str(topic), int(str(partition))): int(str(offset))
            for topic, partition, offset in self._rows(query, arguments)
        }


class _Transaction:
    """A cursor in a transaction of its own, on a connection that is otherwise in autocommit.

    A connection that breaks is closed by it, so that its owner opens another.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> Cursor:
        with mapped():
            self._connection.autocommit = False
            self._cursor = self._connection.cursor()
            return self._cursor

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        del kind, trace
        try:
            if error is None:
                with mapped():
                    self._connection.commit()
                return
            with suppress_lost():
                self._connection.rollback()
            if isinstance(error, psycopg2.Error):
                with mapped():
                    raise error
        finally:
            # Else the next statement, of a share-out or a fetch, would open a transaction that nobody ends.
            with suppress_lost():
                self._connection.autocommit = True


def append(cursor: Cursor, chunks: Sequence[Chunk]) -> list[tuple[TopicPartition, int]]:
    """Append chunks in the caller's transaction; each event's place and offset, in the published order.

    The first round locks every head that later ones touch, in one order: appends can't deadlock.
    """
    placed: dict[int, tuple[TopicPartition, int]] = {}
    waiting = list(chunks)
    while waiting:
        of_round = {chunk.place: chunk for chunk in reversed(waiting)}
        waiting = [chunk for chunk in waiting if of_round[chunk.place] is not chunk]
        cursor.execute(
            "SELECT topic, partition, first FROM log.append(%s::text[], %s::int[], %s::int[], %s::bytea[])",
            (
                [place.topic for place in of_round],
                [place.partition for place in of_round],
                [len(chunk.members) for chunk in of_round.values()],
                [psycopg2.Binary(chunk.payload) for chunk in of_round.values()],
            ),
        )
        firsts = {TopicPartition(topic, partition): first for topic, partition, first in cursor.fetchall()}
        for place, chunk in of_round.items():
            placed.update({member: (place, firsts[place] + i) for i, member in enumerate(chunk.members)})
    return [placed[index] for index in range(len(placed))]


def fetch(cursor: Cursor, positions: Mapping[TopicPartition, int], max_records: int) -> list[Record]:
    """Records from `positions` on, at most `max_records`, partition after partition; on a connection that follows.

    Raises:
        Truncated: a position lies outside what the log holds.
    """
    cursor.execute(
        "EXECUTE log_fetch (%s, %s, %s::bigint[], %s, %s, %s)",
        (
            [place.topic for place in positions],
            [place.partition for place in positions],
            list(positions.values()),
            FETCH_CHUNKS,
            FETCH_BYTES,
            max_records,
        ),
    )
    records: list[Record] = []
    for topic, partition, position, oldest, upto, first, at_ms, payload in cursor.fetchall():
        if not oldest <= position <= upto:
            raise Truncated(
                f"{topic}[{partition}]: position {position} is outside the kept offsets {oldest}…{upto}; to go on from "
                f"the oldest kept event run `tickerloop replay GROUP --topic {topic} --from oldest`"
            )
        if first is not None:
            records += unpack(TopicPartition(topic, partition), first, at_ms, payload, position)
    return records[:max_records]


def wait(connection: Connection, seconds: float) -> None:
    """Sleep until a notice arrives or `seconds` pass."""
    if not connection.notifies:
        poller = select.poll()  # not `select`, which fails in a process with more than 1,024 files
        poller.register(connection, select.POLLIN)
        poller.poll(seconds * 1000)
        connection.poll()
    connection.notifies.clear()


def follow(connection: Connection, topics: Sequence[str]) -> None:
    """Make an autocommit connection ready to `fetch`, and ask for notices of `topics`."""
    with mapped(), connection.cursor() as cursor:
        cursor.execute(_FETCH)
        for topic in topics:
            cursor.execute(sql.SQL("LISTEN {}").format(sql.Identifier(topic)))


class PostgresConsumer:
    """See `Consumer`. A batch must be committed or rewound before the next poll."""

    def __init__(
        self, owner: PostgresBus, connect: Connect, group: str, topics: Sequence[str], slot: int, max_records: int
    ) -> None:
        self._bus, self._connect, self._topics = owner, connect, tuple(topics)
        self._group, self._slot, self._max = group, slot, max_records
        self._member: Member | None = None
        self._turn = 0

    def poll(self, timeout: float) -> Batch | None:
        """See `Consumer`."""
        deadline = time.monotonic() + timeout
        try:
            while True:
                member = self._joined()
                member.share_out()
                batch = self._fetch(member)
                left = deadline - time.monotonic()
                if batch is not None or left <= 0:
                    return batch
                with mapped():
                    wait(member.connection, min(POLL_S, left))
        except Transient:
            self._drop()
            raise

    def _joined(self) -> Member:
        if self._member is None:
            self._member = Member(self._connect, self._group, self._bus.places(self._topics), self._slot)
            follow(self._member.connection, self._topics)
        return self._member

    def _fetch(self, member: Member) -> Batch | None:
        leases = member.leases
        if not leases:
            return None
        self._turn += 1
        order = sorted(leases)
        first = self._turn % len(order)  # another partition leads each time, so that a full one can't starve the rest
        positions = {place: leases[place].position for place in order[first:] + order[:first]}
        with mapped(), member.connection.cursor() as cursor:
            records = fetch(cursor, positions, self._max)
        if not records:
            return None
        upto = {TopicPartition(r.topic, r.partition): r.offset + 1 for r in records}
        return Batch(records, {place: _Step(leases[place], end) for place, end in upto.items()})

    def transform(self, batch: Batch, events: Sequence[Outgoing], marks: Marks = {}) -> None:  # noqa: B006 (read only)
        """See `Consumer`."""
        self.sink(batch, lambda _: events, marks)

    def sink(self, batch: Batch, write: Write, marks: Marks = {}) -> None:  # noqa: B006 (read only)
        """See `Consumer`."""
        member = self._member
        if member is None:
            raise Fenced(f"{self._group} has lost its session")
        steps: dict[TopicPartition, _Step] = batch.token
        try:
            with _Transaction(member.connection) as cursor:
                chunks = self._bus.chunks(write(cursor))
                self._advance(cursor, steps, marks)
                append(cursor, chunks)
        except Fenced:
            for place in steps.keys() & member.leases.keys():
                member.release(place)
            raise
        except Transient:
            if member.connection.closed:
                self._drop()
            raise
        for place, (lease, upto) in steps.items():
            member.leases[place] = Lease(upto, lease.generation, marks.get(place, lease.mark))
        self._bus.notify(member.connection, chunks)

    def _advance(self, cursor: Cursor, steps: Mapping[TopicPartition, _Step], marks: Marks) -> None:
        places = sorted(steps)
        cursor.execute(
            _ADVANCE,
            (
                [place.topic for place in places],
                [place.partition for place in places],
                [steps[place].lease.position for place in places],
                [steps[place].lease.generation for place in places],
                [steps[place].upto for place in places],
                [marks.get(place, steps[place].lease.mark) for place in places],
                self._group,
            ),
        )
        if cursor.rowcount != len(places):
            raise Fenced(f"{self._group}: a partition of the batch has another owner or was moved")

    def rewind(self, batch: Batch) -> None:
        """See `Consumer`. Positions move with commits only, so there is nothing to take back."""

    def keep(self) -> None:
        """See `Consumer`."""
        if self._member is not None:
            self._member.active()

    def owned(self) -> Mapping[TopicPartition, str]:
        """See `Consumer`."""
        return {place: lease.mark for place, lease in (self._member.leases if self._member else {}).items()}

    def close(self) -> None:
        """See `Consumer`."""
        self._drop()

    def _drop(self) -> None:
        if self._member is not None:
            self._member.close()
            self._member = None


class PostgresReader:
    """See `Reader`."""

    def __init__(
        self, owner: PostgresBus, connect: Connect, topics: Sequence[str], start: Mapping[TopicPartition, int]
    ) -> None:
        self._connect, self._topics = connect, tuple(topics)
        oldest = {place: offset for topic in topics for place, offset in owner.begins(topic).items()}
        self._positions = {place: start.get(place, offset) for place, offset in oldest.items()}
        self._connection: Connection | None = None

    def poll(self, timeout: float, max_records: int = 500) -> Sequence[Record]:
        """See `Reader`."""
        deadline = time.monotonic() + timeout
        while True:
            connection = self._joined()
            with mapped(), connection.cursor() as cursor:
                records = fetch(cursor, self._positions, max_records)
            for record in records:
                self._positions[TopicPartition(record.topic, record.partition)] = record.offset + 1
            left = deadline - time.monotonic()
            if records or left <= 0:
                return records
            with mapped():
                wait(connection, min(POLL_S, left))

    def _joined(self) -> Connection:
        if self._connection is None or self._connection.closed:
            connection = self._connect()
            connection.autocommit = True
            follow(connection, self._topics)
            self._connection = connection
        return self._connection

    def positions(self) -> Mapping[TopicPartition, int]:
        """See `Reader`."""
        return dict(self._positions)

    def close(self) -> None:
        """See `Reader`."""
        if self._connection is not None:
            with suppress_lost():
                self._connection.close()


class PostgresJournal:
    """See `Journal`: a position row whose mark is the journal's place and whose generation fences an earlier holder."""

    def __init__(self, owner: PostgresBus, connect: Connect, name: str, topic: str) -> None:
        self._bus, self._connection = owner, connect()
        self._key = (f"journal.{name}", topic)
        with _Transaction(self._connection) as cursor:
            cursor.execute(
                "INSERT INTO log.position (grp, topic, partition, generation) VALUES (%s, %s, 0, 1)"
                " ON CONFLICT (grp, topic, partition) DO UPDATE SET generation = position.generation + 1"
                " RETURNING generation, mark",
                self._key,
            )
            self._generation, self.mark = cursor.fetchone() or (1, "")

    def publish(self, events: Sequence[Outgoing], mark: str) -> None:
        """See `Journal`."""
        chunks = self._bus.chunks(events)
        with _Transaction(self._connection) as cursor:
            cursor.execute(
                "UPDATE log.position SET mark = %s, position = position + %s"
                " WHERE grp = %s AND topic = %s AND partition = 0 AND generation = %s",
                (mark, len(events), *self._key, self._generation),
            )
            if cursor.rowcount != 1:
                raise Fenced(f"{self._key[0]}: another process has opened it since")
            append(cursor, chunks)
        self.mark = mark
        self._bus.notify(self._connection, chunks)

    def close(self) -> None:
        """See `Journal`."""
        with suppress_lost():
            self._connection.close()


_BUS: type[bus.Bus] = PostgresBus
