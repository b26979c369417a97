"""The bus contract: what both logs promise and all that a service may ask of one.

**Each event takes effect exactly once, in order per key**, through any crash of any process. `postgres.py` and
`kafka.py` implement it; `tests/contract` holds both to it. A step either *transforms* (events in → events out) or
*sinks* (events in → rows, and perhaps events).
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from psycopg2.extensions import cursor as Cursor

from services.stream.errors import Rejected, Transient

STALL_S: Final = 30.0
"""Longest that a log may give nothing of what it holds: a cold broker's first answer takes seconds."""

Headers = tuple[tuple[str, bytes], ...]


class TopicPartition(NamedTuple):
    """Address of one partition."""

    topic: str
    partition: int


class Record(NamedTuple):
    """One event as read. `timestamp` is its arrival at the log, in ms; event time is inside the value."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes
    value: bytes
    headers: Headers = ()


class Outgoing(NamedTuple):
    """One event to publish. `partition` None means: by `partition_of(key)`."""

    topic: str
    key: bytes
    value: bytes
    headers: Headers = ()
    partition: int | None = None


class Batch(NamedTuple):
    """What one poll gave: records of owned partitions in offset order, and the owner's token for the commit."""

    records: Sequence[Record]
    token: Any


Write = Callable[[Cursor], Sequence[Outgoing]]
"""Writes rows with the cursor it is given and returns the events to publish with them, in one effect."""

Marks = Mapping[TopicPartition, str]
"""A short text stored with a partition's position in the same commit, e.g. the last model epoch."""


class Consumer(Protocol):
    """One member of a consumer group. Not thread-safe."""

    def poll(self, timeout: float) -> Batch | None:
        """Wait up to `timeout` seconds for records of owned partitions; None when there are none.

        Raises:
            Truncated: an owned partition's position lies before what retention kept.
            Transient: the server is away; the next call connects again.
        """

    def transform(self, batch: Batch, events: Sequence[Outgoing], marks: Marks = ...) -> None:
        """Publish `events` and advance past `batch` in one transaction, durable on return.

        Raises:
            Fenced: a partition of the batch has another owner; nothing was published.
            Transient: the outcome is a rollback; `rewind` and redo.
        """

    def sink(self, batch: Batch, write: Write, marks: Marks = ...) -> None:
        """Run `write`, publish what it returns and advance past `batch` in one transaction, durable on return.

        Raises: as `transform`; whatever `write` raises, after rolling back.
        """

    def rewind(self, batch: Batch) -> None:
        """Take back a batch that was not committed: the next poll gives it again, if still owned."""

    def keep(self) -> None:
        """Keep membership while a slow step or a backoff holds the loop; fetches nothing."""

    def owned(self) -> Mapping[TopicPartition, str]:
        """Partitions owned now, each with the mark stored by its last commit ('' at first)."""

    def close(self) -> None:
        """Leave the group at once, so that others needn't wait for a timeout."""


class Reader(Protocol):
    """Reads partitions without a group: the models follower, the live stream, replays."""

    def poll(self, timeout: float, max_records: int = ...) -> Sequence[Record]:
        """Records from the current positions on, at most about `max_records`; empty after `timeout` seconds.

        Raises:
            Truncated: a position lies before what retention kept.
        """

    def positions(self) -> Mapping[TopicPartition, int]:
        """Next offset to read, per partition."""

    def close(self) -> None:
        """Free the connection."""


class Journal(Protocol):
    """A producer with a durable place of its own: each publish moves its mark in the same transaction."""

    mark: str

    def publish(self, events: Sequence[Outgoing], mark: str) -> None:
        """Publish and store `mark`, in one transaction.

        Raises:
            Fenced: another process opened the same journal later.
        """

    def close(self) -> None:
        """Free the connection."""


class Bus(Protocol):
    """A log of topics. One object per process; consumers, readers and journals hold connections of their own."""

    def create_topics(self) -> None:
        """Create what is missing of the catalogue; idempotent."""

    def partitions(self, topic: str) -> int:
        """Number of partitions."""

    def publish(self, events: Sequence[Outgoing]) -> Sequence[tuple[TopicPartition, int]]:
        """Append all or nothing, durable on return; each event's partition and offset, in order.

        Raises:
            Rejected: an event is larger than its topic takes; nothing was published.
            Transient: the server is away.
        """

    def write(self, write: Write) -> None:
        """A sink without a source: rows and events in one effect (a promotion)."""

    def consumer(
        self, group: str, topics: Sequence[str], slot: int = 0, max_records: int = 500, sinks: bool = False
    ) -> Consumer:
        """Join `group` as its member `slot`; a group that commits by `sink` says so with `sinks`.

        Raises:
            SlotTaken: another live process holds the slot (at the latest, at the next poll or commit).
        """

    def reader(self, topics: Sequence[str], start: Mapping[TopicPartition, int] | None = None) -> Reader:
        """Read every partition of `topics`, from `start` where given, else from the oldest kept."""

    def journal(self, name: str, topic: str) -> Journal:
        """Open the durable journal `name` for producing to `topic`; fences any earlier holder."""

    def identity(self, topic: str) -> str:
        """Name of the log that holds `topic`; another one's offsets mean other events."""

    def begins(self, topic: str) -> Mapping[TopicPartition, int]:
        """Oldest kept offset per partition."""

    def ends(self, topic: str) -> Mapping[TopicPartition, int]:
        """Offset after the newest visible one, per partition."""

    def offsets_at(self, topic: str, at_ms: int) -> Mapping[TopicPartition, int]:
        """First offset that arrived at or after `at_ms`, per partition; the end where there is none."""

    def committed(self, group: str, topic: str) -> Mapping[TopicPartition, int]:
        """Committed position per partition; absent where the group never committed."""

    def seek(self, group: str, positions: Mapping[TopicPartition, int]) -> None:
        """Move a stopped group (replay). Its live members are fenced or refuse, as the log does."""

    def erase(self, records: Sequence[Record]) -> int:
        """Make the values of these records `ERASED`, under their offsets; how many weren't so before. On Kafka that is
        none: there they go with their topic's retention."""

    def expire(self) -> int:
        """Apply retention now where the log leaves that to us; number of events dropped."""

    def close(self) -> None:
        """Free every connection the bus itself holds."""


def partition_of(key: bytes, partitions: int) -> int:
    """CRC-32 of the key modulo the partition count; the same on both logs, so results are comparable."""
    return zlib.crc32(key) % partitions


def check_size(event: Outgoing, limit: int) -> None:
    """Refuse an oversize event before producing it.

    Raises:
        Rejected: value and headers exceed `limit` bytes.
    """
    size = len(event.value) + sum(len(name) + len(value) for name, value in event.headers)
    if size > limit:
        raise Rejected("oversize", f"{size:,} bytes for {event.topic}, which takes {limit:,}")


def read_to_end(reader: Reader, ends: Mapping[TopicPartition, int], stall_s: float = STALL_S) -> Iterator[Record]:
    """Records until `reader` stands at or behind `ends`; what came after them in the last poll is given as well.

    Raises:
        Transient: it hasn't moved for `stall_s` seconds and isn't there yet.
    """
    before, deadline = reader.positions(), time.monotonic() + stall_s
    while missing := [place for place, end in ends.items() if reader.positions()[place] < end]:
        yield from reader.poll(min(1.0, stall_s))
        if reader.positions() != before:
            before, deadline = reader.positions(), time.monotonic() + stall_s
        elif time.monotonic() > deadline:
            raise Transient(f"the log gave nothing for {stall_s:.0f} s, short of the end of {missing}")
