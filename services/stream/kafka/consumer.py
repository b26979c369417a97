"""Transforming and sinking members.

A transform publishes its events and commits its positions in one Kafka transaction; a sink's positions lie in
PostgreSQL with its rows. A group that never committed starts where `seek` put it, else at the oldest kept record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from psycopg2.extensions import connection as Connection

from services.stream.bus import Batch, Marks, Outgoing, Record, TopicPartition, Write
from services.stream.database import Connect, suppress_lost, transaction
from services.stream.errors import Fenced, Misconfigured, Transient, Truncated
from services.stream.kafka.client import offsets_of, place_of, record_of
from services.stream.kafka.cluster import Cluster
from services.stream.kafka.journal import Prepare
from services.stream.kafka.member import LOOK_UP_MS, Fetched, Lease, Member
from services.stream.kafka.outbox import put
from services.stream.kafka.positions import Advance, SinkPositions
from services.stream.kafka.transactions import Transactions


class Service(NamedTuple):
    """What a consumer needs of its bus."""

    bootstrap: str
    cluster: Cluster
    connect: Connect
    prepare: Prepare


class Identity(NamedTuple):
    """Who a consumer is: `group` as the code calls it, `kafka_group` as the cluster does, `slot` the full name."""

    group: str
    kafka_group: str
    slot: str


class _Token(NamedTuple):
    membership: Any
    steps: Mapping[TopicPartition, tuple[Lease, int]]


class GroupConsumer:
    """See `Consumer`. `locate` decides where positions are looked up."""

    def __init__(self, service: Service, who: Identity, topics: Sequence[str], max_records: int) -> None:
        self._service, self._who, self._topics, self._max = service, who, tuple(topics), max_records
        self._member: Member | None = None

    def poll(self, timeout: float) -> Batch | None:
        """See `Consumer`."""
        try:
            fetched = self._joined().poll(timeout)
        except Truncated as error:
            mend = "; ".join(f"`tickerloop replay {self._who.group} --topic {t} --from oldest`" for t in self._topics)
            raise Truncated(f"{error}. What is gone is gone; go on from what is kept with {mend}") from error
        if fetched is None:
            return None
        batch = self._batch(fetched)
        if batch.records:
            return batch
        self.transform(batch, [])
        return None

    def transform(self, batch: Batch, events: Sequence[Outgoing], marks: Marks = {}) -> None:  # noqa: B006 (read only)
        """See `Consumer`."""
        raise NotImplementedError

    def _joined(self) -> Member:
        if self._member is None:
            self._member = Member(
                self._service.bootstrap,
                self._who.kafka_group,
                self._who.slot,
                self._topics,
                self._max,
                self._locate,
            )
        return self._member

    def _batch(self, fetched: Fetched) -> Batch:
        leases = self._joined().leases
        records: list[Record] = [record_of(record) for found in fetched.records.values() for record in found]
        return Batch(records, _Token(fetched.membership, {p: (leases[p], upto) for p, upto in fetched.upto.items()}))

    def _locate(self, client: Any, places: Sequence[TopicPartition]) -> Mapping[TopicPartition, tuple[int, str]]:
        found = {place: client.committed(place_of(place), True, LOOK_UP_MS) for place in places}
        return {place: (at.offset, at.metadata or "") for place, at in found.items() if at is not None}

    def _steps(self, batch: Batch, marks: Marks) -> dict[TopicPartition, Advance]:
        leases = self._joined().leases
        steps: Mapping[TopicPartition, tuple[Lease, int]] = batch.token.steps
        void = [place for place, (lease, _) in steps.items() if leases.get(place) != lease]
        if void:
            raise Fenced(f"{self._who.slot}: {void} have been revoked, rewound or committed since they were read")
        return {
            place: Advance(lease.position, upto, marks.get(place, lease.mark)) for place, (lease, upto) in steps.items()
        }

    def _advanced(self, steps: Mapping[TopicPartition, Advance]) -> None:
        leases = self._joined().leases
        leases.update({p: leases[p]._replace(position=step.upto, mark=step.mark) for p, step in steps.items()})

    def rewind(self, batch: Batch) -> None:
        """See `Consumer`. Reads on from the committed position, past the batch if its commit went through after all."""
        self._joined().hold(batch.token.steps)

    def keep(self) -> None:
        """See `Consumer`."""
        if self._member is not None:
            self._member.keep()

    def owned(self) -> Mapping[TopicPartition, str]:
        """See `Consumer`."""
        return {place: lease.mark for place, lease in (self._member.leases if self._member else {}).items()}

    def close(self) -> None:
        """See `Consumer`."""
        if self._member is not None:
            self._member.close()


class Transformer(GroupConsumer):
    """A member whose positions lie in Kafka, where its events go."""

    _transactions: Transactions | None = None

    def _locate(self, client: Any, places: Sequence[TopicPartition]) -> Mapping[TopicPartition, tuple[int, str]]:
        # The producer first: what its predecessor left open would hold these positions back until its timeout.
        self._ready()
        return super()._locate(client, places)

    def _ready(self) -> Transactions:
        if self._transactions is None or not self._transactions.usable:
            # A member whose slot was taken while it was stopped must not fence its successor's producer.
            self._joined().confirm()
            self._transactions = Transactions(self._service.bootstrap, self._who.slot)
        return self._transactions

    def transform(self, batch: Batch, events: Sequence[Outgoing], marks: Marks = {}) -> None:  # noqa: B006 (read only)
        """See `Consumer`."""
        steps = self._steps(batch, marks)
        ready = self._service.prepare(events)
        offsets = offsets_of({place: (step.upto, step.mark) for place, step in steps.items()})
        try:
            self._ready().commit(ready, offsets, batch.token.membership)
        except BaseException:
            self._joined().hold(steps)
            raise
        self._advanced(steps)

    def sink(self, batch: Batch, write: Write, marks: Marks = {}) -> None:  # noqa: B006, ARG002 (it refuses)
        """Refuse: its positions can't commit with rows."""
        raise Misconfigured(f"group {self._who.group} transforms: open it with sinks=True to commit with rows")

    def close(self) -> None:
        """See `Consumer`."""
        super().close()
        if self._transactions is not None:
            self._transactions.close()


class Sinker(GroupConsumer):
    """A member whose positions lie in PostgreSQL, where its rows go."""

    def __init__(self, service: Service, who: Identity, topics: Sequence[str], max_records: int) -> None:
        super().__init__(service, who, topics, max_records)
        self._positions = SinkPositions(service.cluster, who.kafka_group)
        self._ids: dict[str, str] = {}
        self._made: Connection | None = None

    def _locate(self, client: Any, places: Sequence[TopicPartition]) -> Mapping[TopicPartition, tuple[int, str]]:
        self._ids = {topic: self._service.cluster.topic_id(topic) for topic in self._topics}
        found: dict[TopicPartition, tuple[int, str]] = {}
        with transaction(self._connection()) as connection, connection.cursor() as cursor:
            for topic, topic_id in self._ids.items():
                found |= self._positions.read(cursor, topic, topic_id)
        return {**super()._locate(client, [place for place in places if place not in found]), **found}

    def _connection(self) -> Connection:
        if self._made is None or self._made.closed:
            self._made = self._service.connect()
        return self._made

    def transform(self, batch: Batch, events: Sequence[Outgoing], marks: Marks = {}) -> None:  # noqa: B006 (read only)
        """A sink without rows."""
        self.sink(batch, lambda _: events, marks)

    def sink(self, batch: Batch, write: Write, marks: Marks = {}) -> None:  # noqa: B006 (read only)
        """See `Consumer`. The events wait in the outbox for the relay."""
        steps = self._steps(batch, marks)
        try:
            with transaction(self._connection()) as connection, connection.cursor() as cursor:
                ready = self._service.prepare(write(cursor))
                self._positions.advance(cursor, steps, self._ids)
                put(cursor, ready)
        except Fenced:
            self._joined().hold(steps)
            raise
        except Transient:
            self._forget()
            raise
        self._advanced(steps)

    def _forget(self) -> None:
        if self._made is not None:
            with suppress_lost():
                self._made.close()
        self._made = None

    def close(self) -> None:
        """See `Consumer`."""
        super().close()
        self._forget()
