"""The bus of many machines: Apache Kafka, with PostgreSQL for what must commit with rows."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

from psycopg2.extensions import connection as Connection

from services.stream import bus
from services.stream.bus import Outgoing, Record, TopicPartition, Write, check_size, partition_of
from services.stream.database import Connect, suppress_lost, transaction
from services.stream.kafka import client
from services.stream.kafka.client import mapped
from services.stream.kafka.cluster import Cluster
from services.stream.kafka.consumer import Identity, Service, Sinker, Transformer
from services.stream.kafka.journal import KafkaJournal
from services.stream.kafka.outbox import Relay, put
from services.stream.kafka.positions import SinkPositions
from services.stream.kafka.reader import KafkaReader
from services.stream.kafka.transactions import Placed, Transactions, send
from services.stream.topics import Topic, catalogue

RELAY: Final = "relay"
"""Topic without events, named `<deployment>.relay`: Kafka keeps a mark only for a partition that exists."""


class KafkaBus:
    """See `Bus`. `connect` opens connections to the application's database; groups are named `<deployment>.<group>`.

    `publisher` names the one process that publishes as such (`<service>.<slot>`): what it leaves open its next start
    ends. Without it `publish` works under an id of this bus's own, and what a kill leaves open waits for its timeout.
    """

    def __init__(
        self,
        bootstrap: str,
        connect: Connect,
        *,
        deployment: str = "tickerloop",
        partitions: int = 4,
        topics: Sequence[Topic] = catalogue(),
        publisher: str = "",
    ) -> None:
        self._bootstrap, self._connect, self._deployment, self._count = bootstrap, connect, deployment, partitions
        self._publisher = self._named(publisher or uuid.uuid4().hex, "publish")
        self._topics = {topic.name: topic for topic in (*topics, Topic(self._named(RELAY), None, single=True))}
        self._cluster = Cluster(bootstrap)
        self._lock = threading.Lock()
        self._single: Any = None
        self._several: Transactions | None = None
        self._made: Connection | None = None

    def _named(self, *parts: object) -> str:
        return ".".join([self._deployment, *map(str, parts)])

    # ── topics ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def create_topics(self) -> None:
        """See `Bus`."""
        self._cluster.create(list(self._topics.values()), self._count)

    def partitions(self, topic: str) -> int:
        """See `Bus`."""
        return self._cluster.partitions(topic)

    def identity(self, topic: str) -> str:
        """See `Bus`. A topic made anew under its old name is another one."""
        return f"{self._cluster.cluster_id()}/{self._cluster.topic_id(topic)}"

    def begins(self, topic: str) -> Mapping[TopicPartition, int]:
        """See `Bus`."""
        return self._cluster.begins(topic)

    def ends(self, topic: str) -> Mapping[TopicPartition, int]:
        """See `Bus`. Counts the end marks of transactions, which nobody reads: a reader's position passes over them."""
        return self._cluster.ends(topic)

    def offsets_at(self, topic: str, at_ms: int) -> Mapping[TopicPartition, int]:
        """See `Bus`."""
        return self._cluster.offsets_at(topic, at_ms)

    def erase(self, records: Sequence[Record]) -> int:
        """See `Bus`. A broker deletes whole beginnings of a partition, never a record of its middle."""
        del records
        return 0

    def expire(self) -> int:
        """See `Bus`. The brokers do it."""
        return 0

    # ── producing ───────────────────────────────────────────────────────────────────────────────────────────────────

    def prepare(self, events: Sequence[Outgoing]) -> list[Outgoing]:
        """Give each event its partition.

        Raises:
            Rejected: an event is larger than its topic takes.
            Misconfigured: there is no such topic.
        """
        ready = []
        for event in events:
            count = self.partitions(event.topic)
            check_size(event, Topic(event.topic, None).max_bytes)
            chosen = event.partition if event.partition is not None else partition_of(event.key, count)
            ready.append(event._replace(partition=chosen))
        return ready

    def publish(self, events: Sequence[Outgoing]) -> Placed:
        """See `Bus`. One event needs no transaction: it is there or not.

        Raises:
            SlotTaken: another process publishes under this one's name.
        """
        ready = self.prepare(events)
        with self._lock:
            several = self._transactions()  # before the first single event, too: it ends what a predecessor left open
            return several.commit(ready) if len(ready) > 1 else self._publish_one(ready)

    def _publish_one(self, ready: Sequence[Outgoing]) -> Placed:
        if self._single is None:
            self._single = client.producer(self._bootstrap)
        try:
            with mapped():
                return send(self._single, ready)
        except BaseException:
            # It may still be trying; what was reported as failed must not appear later.
            client.end(self._single)
            self._single = None
            raise

    def _transactions(self) -> Transactions:
        if self._several is None or not self._several.usable:
            self._several = Transactions(self._bootstrap, self._publisher)
        return self._several

    def write(self, write: Write) -> None:
        """See `Bus`."""
        with self._lock, transaction(self._connection()) as connection, connection.cursor() as cursor:
            put(cursor, self.prepare(write(cursor)))

    def _connection(self) -> Connection:
        if self._made is None or self._made.closed:
            self._made = self._connect()
        return self._made

    def journal(self, name: str, topic: str) -> KafkaJournal:
        """See `Bus`."""
        return KafkaJournal(self._bootstrap, self._named("journal", name), TopicPartition(topic, 0), self.prepare)

    def relay(self, stop: threading.Event) -> None:
        """Publish the outbox until `stop` is set, or stand by for the process that does.

        Raises:
            Fatal: see `Relay`.
        """
        place = TopicPartition(self._named(RELAY), 0)
        Relay(
            self._connect,
            lambda: KafkaJournal(self._bootstrap, self._named(RELAY), place, self.prepare),
            self._deployment,
        ).run(stop)

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def consumer(
        self, group: str, topics: Sequence[str], slot: int = 0, max_records: int = 500, sinks: bool = False
    ) -> Transformer | Sinker:
        """See `Bus`. A member that joins a slot fences the one that held it."""
        service = Service(self._bootstrap, self._cluster, self._connect, self.prepare)
        who = Identity(group, self._named(group), self._named(group, slot))
        return (Sinker if sinks else Transformer)(service, who, topics, max_records)

    def reader(self, topics: Sequence[str], start: Mapping[TopicPartition, int] | None = None) -> KafkaReader:
        """See `Bus`."""
        begins = {place: at for topic in topics for place, at in self.begins(topic).items()}
        return KafkaReader(self._bootstrap, {**begins, **(start or {})})

    def committed(self, group: str, topic: str) -> Mapping[TopicPartition, int]:
        """See `Bus`. A group that has rows in `log.sink_position` sinks."""
        found = self._sunk(group, topic) or self._cluster.committed(self._named(group), self._cluster.places([topic]))
        return {place: position for place, (position, _) in sorted(found.items())}

    def _sunk(self, group: str, topic: str) -> dict[TopicPartition, tuple[int, str]]:
        positions = SinkPositions(self._cluster, self._named(group))
        topic_id = self._cluster.topic_id(topic)
        with self._lock, transaction(self._connection()) as connection, connection.cursor() as cursor:
            return positions.read(cursor, topic, topic_id)

    def seek(self, group: str, positions: Mapping[TopicPartition, int]) -> None:
        """See `Bus`. Marks stay.

        Raises:
            Transient: the group has live members; a killed one counts until its session runs out.
        """
        self._cluster.must_be_stopped(self._named(group))
        for topic in sorted({place.topic for place in positions}):
            wanted = {place: at for place, at in positions.items() if place.topic == topic}
            if self._sunk(group, topic):
                with self._lock, transaction(self._connection()) as connection, connection.cursor() as cursor:
                    SinkPositions(self._cluster, self._named(group)).move(cursor, wanted)
            else:
                known = self._cluster.committed(self._named(group), list(wanted))
                moved = {place: (at, known.get(place, (0, ""))[1]) for place, at in wanted.items()}
                self._cluster.move(self._named(group), moved)

    def close(self) -> None:
        """See `Bus`."""
        self._cluster.close()
        for made in (self._several, self._made):
            if made is not None:
                with suppress_lost():
                    made.close()
        if self._single is not None:
            client.end(self._single)


_BUS: type[bus.Bus] = KafkaBus
