"""Faust's Kafka driver, made to read as the monitor needs it. All that reaches into Faust's and aiokafka's insides.

- Committed records only: Faust 0.15 asks for them only in its own transactional mode, and would count aborted mentions.
- Positions come from the monitor's rows, not from Kafka: Faust commits the offsets of events whose agent raised, and of
  events that it threw away in a rebalance.
- Each record carries the offset of the one fetched before it, so that the agent can tell a record that Faust lost on
  the way from a gap in the log, which is normal under read_committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from aiokafka import TopicPartition as KafkaPartition  # type: ignore[import-untyped]
from aiokafka.errors import NoOffsetForPartitionError  # type: ignore[import-untyped]
from faust.transport.drivers import aiokafka as driver
from mode.threads import WorkerThread
from yarl import URL

from services.stream.bus import Record
from services.stream.errors import Misconfigured

AFTER: Final = "tickerloop-after"
"""Name of the header that is put last on each fetched record: the offset before it."""

SEEK_S: Final = 30.0
"""Below the 90 s after which Faust itself would go on without having sought."""


class Places(Protocol):
    """Who knows what is counted. Called on other threads than the agent's."""

    def seen(self, partitions: Collection[int]) -> Mapping[int, int]:
        """The last counted offset of each of these partitions that has one; may block."""

    def starts(self, counted: Mapping[int, int]) -> None:
        """Partitions are about to be read behind these offsets."""

    def failed(self, error: Exception) -> None:
        """Partitions could not be put at their positions. Faust would at times log it and stand still."""


class Delivery(NamedTuple):
    """A record and the offset of the one before it in what Faust was given; one below it after a seek."""

    record: Record
    after: int


def delivery_of(message: Any) -> Delivery:
    """What one of Faust's messages stands for; any client may have left out key, value or a header's value."""
    *headers, (_, after) = message.headers
    record = Record(
        message.topic,
        message.partition,
        message.offset,
        round(message.timestamp * 1000),
        message.key or b"",
        message.value or b"",
        tuple((name, value or b"") for name, value in headers),
    )
    return Delivery(record, int(after))


class _Daemon(WorkerThread):
    """Doesn't keep a process alive whose app didn't stop."""

    def __init__(self, service: Any, **settings: Any) -> None:
        super().__init__(service, **settings)
        self.daemon = True


class _Thread(driver.AIOKafkaConsumerThread):
    """Runs aiokafka's consumer on a loop of its own; everything below runs there."""

    _last: dict[KafkaPartition, int]
    """The last fetched offset of each partition that has been put at its position since the last rebalance."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        if not hasattr(consumer, "_isolation_level"):
            raise Misconfigured("this aiokafka can't be told to read committed records only; install aiokafka 0.14")
        consumer._isolation_level = "read_committed"
        self._last = {}
        return consumer

    async def on_partitions_assigned(self, assigned: Any, generation_id: int = 0) -> None:
        self._last.clear()
        await super().on_partitions_assigned(assigned, generation_id)

    async def seek_to_committed(self) -> Any:
        """Put each owned partition behind what is counted of it; Faust calls it when an assignment begins."""
        transport: Any = self.transport
        try:
            async with asyncio.timeout(SEEK_S):
                return await self.call_thread(self._seek_to_seen, transport.places)
        except Exception as error:
            transport.places.failed(error)
            raise

    async def _seek_to_seen(self, known: Places) -> dict[KafkaPartition, int]:
        consumer = self._ensure_consumer()
        places = sorted(consumer.assignment())
        seen = await asyncio.to_thread(known.seen, [place.partition for place in places])
        begins = await consumer.beginning_offsets([place for place in places if place.partition not in seen])
        positions = {
            place: begins[place] if place in begins else seen[place.partition] + 1
            for place in places
            if place in consumer.assignment()
        }
        known.starts({place.partition: position - 1 for place, position in positions.items()})
        for place, position in positions.items():
            consumer.seek(place, position)
            self._last[place] = position - 1
        return positions

    async def _fetch_records(self, *arguments: Any, **settings: Any) -> Any:
        try:
            fetched = await super()._fetch_records(*arguments, **settings)
        except NoOffsetForPartitionError:
            return {}  # Kafka has no position of a partition that is about to be sought
        # What came before the seek of a new assignment is dropped: the seek brings it again.
        known = {place: records for place, records in fetched.items() if place in self._last}
        for place, records in known.items():
            for record in records:
                record.headers = (*record.headers, (AFTER, str(self._last[place]).encode()))
                self._last[place] = record.offset
        return known


class _Consumer(driver.Consumer):
    def _new_consumer_thread(self) -> Any:
        return _Thread(self, loop=self.loop, beacon=self.beacon, Worker=_Daemon)


class Transport(driver.Transport):
    """What `app.transport` is set to."""

    Consumer = _Consumer

    def __init__(self, servers: Sequence[str], app: Any, places: Places) -> None:
        super().__init__([URL(f"kafka://{server}") for server in servers], app)
        self.places = places
