"""The same window module in the Faust app, against a real broker."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from kafka_broker import Broker
from monitor_kit import (
    BASE,
    PARTITIONS,
    count_all,
    count_with_kills,
    expected,
    fail_on,
    made,
    mend,
    mention,
    outgoing,
    query,
    rows,
    until,
    working,
)

from services.runtime import EXIT_FATAL
from services.settings import Settings
from services.status import lag
from services.stream.bus import Outgoing, partition_of
from services.stream.errors import TickerloopError
from services.stream.events import Mention
from services.stream.kafka import KafkaBus, client
from services.stream.topics import MENTIONS, dead

pytestmark = pytest.mark.kafka
_numbers = itertools.count()


@pytest.fixture
def settings(kafka_broker: Broker, database: str, tmp_path: Path) -> Settings:
    """A deployment of its own on topics of its own: an earlier test's `mentions` is another topic of the same name."""
    with closing(client.admin(kafka_broker.bootstrap)) as admin:
        admin.delete_topics([name for name in admin.list_topics() if name.startswith(MENTIONS)])
    settings = Settings(
        database=database,
        bus=f"kafka://{kafka_broker.bootstrap}",
        data=str(tmp_path / "var"),
        partitions=PARTITIONS,
        deployment=f"monitor{next(_numbers)}",
    )
    deadline = time.monotonic() + 30
    while True:
        try:
            settings.open_bus("test").create_topics()
            settings.open_bus("test").ends(MENTIONS)
            return settings
        except TickerloopError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


@pytest.fixture
def bus(settings: Settings) -> Iterator[KafkaBus]:
    with closing(settings.open_bus("test")) as bus:
        assert isinstance(bus, KafkaBus)
        yield bus


def publish(bus: KafkaBus, events: Sequence[Mention], each: int = 500) -> None:
    for start in range(0, len(events), each):
        bus.publish([outgoing(event) for event in events[start : start + each]])


def outbox(url: str) -> list[tuple[str, bytes]]:
    """Dead letters that wait for the relay: topic and key."""
    return [(topic, bytes(key)) for topic, key in query(url, "SELECT topic, key FROM log.outbox")]


def test_both_buses_come_to_the_same_rows(settings: Settings, bus: KafkaBus) -> None:
    events = made(3_000)
    publish(bus, events, each=70)
    result = count_all(settings, events)
    query(settings.database, "TRUNCATE window_minute, late_mention")
    embedded = msgspec.structs.replace(settings, bus="embedded")
    with closing(embedded.open_bus("test")) as log:
        log.create_topics()
        log.publish([outgoing(event) for event in events])
    assert result == count_all(embedded, events) == expected(events)
    assert result.late


def test_kills_change_nothing(settings: Settings, bus: KafkaBus) -> None:
    events = made(12_000)
    publish(bus, events)
    assert count_with_kills(settings, events, kills=2) == expected(events)


def test_aborted_mentions_are_not_counted(settings: Settings, bus: KafkaBus) -> None:
    events = made(300)
    with closing(client.producer(settings.bus.removeprefix("kafka://"), f"{settings.deployment}.aborts")) as producer:
        producer.init_transactions()
        for start in range(0, len(events), 100):
            producer.begin_transaction()
            for event in made(50, seed=start):
                key = event.ticker.encode()
                producer.send(MENTIONS, outgoing(event).value, key=key, partition=partition_of(key, PARTITIONS))
            producer.flush()
            producer.abort_transaction()
            publish(bus, events[start : start + 100])
    # In the log are the aborted records, too; a transaction's own are behind its end a moment after its commit.
    until(lambda: sum(bus.ends(MENTIONS).values()) > len(events) + 150)
    count_all(settings, events)
    with working(settings, idle_ms=300) as worker:
        until(lambda: all(row[5] for row in rows(settings.database).windows.values()), worker)
    assert rows(settings.database).n == len(events)


def test_workers_that_come_and_go_change_nothing(settings: Settings, bus: KafkaBus) -> None:
    events = made(9_000)
    publish(bus, events[:3_000])
    with working(settings, 0) as first:
        until(lambda: rows(settings.database).n > 1_000, first)
        with working(settings, 1) as second:
            until(lambda: "counts partitions" in second.log.read_text(), second)
            publish(bus, events[3_000:6_000], each=100)
            until(lambda: rows(settings.database).n > 4_000, second)
            assert first.stop() == 0
            publish(bus, events[6_000:], each=100)
            until(lambda: rows(settings.database).n == len(events), second)
    assert rows(settings.database) == expected(events)


def test_an_error_in_the_agent_loses_nothing(settings: Settings, bus: KafkaBus) -> None:
    events = made(1_000)
    fail_on(settings.database, "T3", "40001")
    with working(settings) as worker:
        publish(bus, events, each=50)
        until(lambda: "trying again" in worker.log.read_text(), worker)
        mend(settings.database)
        until(lambda: rows(settings.database).n == len(events), worker)
    assert rows(settings.database) == expected(events)


def test_a_fatal_error_in_the_agent_acks_nothing(settings: Settings, bus: KafkaBus) -> None:
    events = [*made(200), *(mention("BAD", BASE + 200_000, number=n) for n in range(30)), *made(200)]
    fail_on(settings.database, "BAD", "P0001")
    publish(bus, events)
    with working(settings) as worker:
        until(lambda: not worker.alive)
        assert worker.process.returncode == EXIT_FATAL
    mend(settings.database)
    query(settings.database, "DELETE FROM trip")
    with working(settings) as worker:
        until(lambda: rows(settings.database).n + len(outbox(settings.database)) == len(events), worker)
    assert set(outbox(settings.database)) <= {(dead(MENTIONS), b"BAD")}


def test_what_is_counted_is_no_lag_and_what_is_not_is(settings: Settings, bus: KafkaBus) -> None:
    events = made(300)
    publish(bus, events)
    until(lambda: lag(settings, bus, "monitor", MENTIONS).lag >= len(events))
    count_all(settings, events)
    assert sum(seen + 1 for (seen,) in query(settings.database, "SELECT seen FROM monitor_partition")) < sum(
        bus.ends(MENTIONS).values()
    ), "each transaction's end mark lies behind its last event"
    assert lag(settings, bus, "monitor", MENTIONS).lag == 0
    publish(bus, events[:50])
    until(lambda: lag(settings, bus, "monitor", MENTIONS).lag >= 50)


def test_bad_records_wait_for_the_relay(settings: Settings, bus: KafkaBus) -> None:
    good = outgoing(mention("A", BASE))
    bus.publish([Outgoing(MENTIONS, b"A", b"{"), good._replace(key=b"B"), good])
    with working(settings) as worker:
        until(lambda: rows(settings.database).n == 1 and len(outbox(settings.database)) == 2, worker)
    assert sorted(outbox(settings.database)) == [(dead(MENTIONS), b"A"), (dead(MENTIONS), b"B")]


def test_lost_servers_change_nothing(settings: Settings, bus: KafkaBus, kafka_broker: Broker) -> None:
    events = made(6_000)
    publish(bus, events[:3_000])
    with working(settings) as worker:
        until(lambda: rows(settings.database).n > 500, worker)
        kafka_broker.crash()
        query(
            settings.database,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
            (f"{settings.deployment}.monitor",),
        )
        kafka_broker.start()
        with closing(settings.open_bus("test")) as again:
            assert isinstance(again, KafkaBus)
            publish(again, events[3_000:])
        until(lambda: rows(settings.database).n == len(events), worker)
    assert rows(settings.database) == expected(events)


def test_dropped_mentions_are_fatal_and_never_skipped(settings: Settings, bus: KafkaBus) -> None:
    events = made(400)
    publish(bus, events)
    count_all(settings, events)
    publish(bus, events)
    with closing(client.admin(settings.bus.removeprefix("kafka://"))) as admin:
        admin.delete_records({client.place_of(place): end - 2 for place, end in bus.ends(MENTIONS).items()})
    with working(settings) as worker:
        until(lambda: not worker.alive)
        assert worker.process.returncode == EXIT_FATAL
        assert "DELETE FROM monitor_partition" in worker.log.read_text()
    query(settings.database, "DELETE FROM monitor_partition")
    with working(settings) as worker:
        until(lambda: rows(settings.database).n > len(events), worker)
