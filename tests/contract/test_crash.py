"""The log's server dies with kill -9 under traffic and comes back: everyone reconnects, nothing is lost or doubled."""

from __future__ import annotations

import contextlib
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import psycopg2
import pytest
from kafka_broker import Broker, free_ports
from kit import (
    SEED,
    BaseKit,
    EmbeddedKit,
    KafkaKit,
    effects,
    events,
    make_effects,
    once_in_order,
    pairs,
    read,
    retried,
    until,
)

from services.stream.bus import Bus, Outgoing, TopicPartition
from services.stream.database import migrate
from services.stream.errors import Transient
from services.stream.postgres import PostgresBus
from services.supervisor.servers import PostgresServer

pytestmark = pytest.mark.timeout(300)


class Crashable:
    """A kit whose server can be killed."""

    def __init__(self, kit: BaseKit, server: PostgresServer | Broker) -> None:
        self.kit, self.server = kit, server

    def crash(self) -> None:
        """Kill the server at once, PostgreSQL with all its backends, as a power failure would."""
        if isinstance(self.server, Broker):
            self.server.crash()
            return
        assert self.server.child is not None
        process = psutil.Process(self.server.child.process.pid)
        family = [process, *process.children(recursive=True)]
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self.server.child.process.wait()
        psutil.wait_procs(family, 30)

    def start(self) -> None:
        self.server.start()


@pytest.fixture(scope="module")
def fragile_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL of this module's own.

    Not in pytest's folder: each session of pytest that starts closes it to other users, and so to a running server.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)
        server = PostgresServer(folder / "data", folder / "logs")
        server.start()
        migrate(server.url)
        yield server
        server.stop()


@pytest.fixture
def crashable_log(fragile_postgres: PostgresServer, tmp_path: Path) -> Iterator[Crashable]:
    kit = EmbeddedKit(tmp_path, fragile_postgres.url)
    kit.bus().create_topics()
    yield Crashable(kit, fragile_postgres)
    kit.close()
    with contextlib.closing(kit.connect()) as connection, connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS effect")


@pytest.fixture
def crashable_broker(
    request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, database: str
) -> Iterator[Crashable]:
    request.getfixturevalue("kafka_broker")  # skips or fails where there is no Java
    broker = Broker(tmp_path_factory.mktemp("fragile_kafka"), free_ports())
    broker.start()
    kit = KafkaKit(tmp_path, database, broker.bootstrap)
    kit.bus().create_topics()
    yield Crashable(kit, broker)
    kit.close()
    broker.stop()


@pytest.fixture
def crashable_rows(
    request: pytest.FixtureRequest, fragile_postgres: PostgresServer, tmp_path: Path
) -> Iterator[Crashable]:
    """Events on Kafka; rows, sinks' positions, claims and outbox in a PostgreSQL that dies."""
    kit = KafkaKit(tmp_path, fragile_postgres.url, request.getfixturevalue("kafka_broker").bootstrap)
    kit.bus().create_topics()
    yield Crashable(kit, fragile_postgres)
    kit.close()
    with contextlib.closing(kit.connect()) as connection, connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS effect")


@pytest.mark.parametrize(
    "which",
    [
        "crashable_log",
        pytest.param("crashable_broker", marks=pytest.mark.kafka),
        pytest.param("crashable_rows", marks=pytest.mark.kafka),
    ],
)
def test_members_and_journals_live_through_crashes_of_the_server(request: pytest.FixtureRequest, which: str) -> None:
    crashable: Crashable = request.getfixturevalue(which)
    chance = random.Random(SEED)
    kit = crashable.kit
    make_effects(kit)
    count = 1_000
    with kit.relay():
        source = kit.member(role="journal", group="file", out=kit.source, upto=count, size=10, sleep=0.1)
        pair = [kit.member(slot, step="both", max_records=20, sleep=0.02) for slot in (0, 1)]
        third = kit.member(2, group=kit.group + ".copy", step="transform", topics=[kit.out], out=kit.short)
        for _ in range(2):
            # Of either: whoever finds the server again first may have taken all the work when the other comes.
            goal = sum(len(member.reports("committed")) for member in pair) + 4
            until(
                lambda n=goal: sum(len(member.reports("committed")) for member in pair) >= n, "commits", 60, pair[1].log
            )
            assert source.process.poll() is None, "the stream ended too soon to crash in its middle"
            time.sleep(chance.uniform(0.0, 0.5))
            crashable.crash()
            time.sleep(chance.uniform(0.0, 1.5))
            crashable.start()
        assert source.process.wait(120) == 0, source.log()
        until(lambda: retried(lambda: len(effects(kit))) >= count, "the rows", 120, third.log)
        once_in_order(effects(kit), count)
        bus = kit.bus()
        once_in_order(pairs(retried(lambda: read(bus, kit.source, count))), count)
        once_in_order(pairs(retried(lambda: read(bus, kit.out, count))), count)
        copied = retried(lambda: read(bus, kit.out, count))
        assert len(copied) == count
        until(lambda: sum(r["count"] for r in third.reports("committed")) >= count, "the copies", 120, third.log)
    assert not any("the step failed" in member.log() for member in kit.members)
    assert [member.stop() for member in kit.members[1:]] == [0, 0, 0], [m.log() for m in kit.members]


def test_offsets_that_a_reader_has_seen_are_never_used_again(crashable_log: Crashable) -> None:
    """With asynchronous commits they were: a reader sees a commit before it is on the disk."""
    kit = crashable_log.kit
    chance = random.Random(SEED)
    for round_ in range(3):
        bus = kit.bus()
        seen: dict[tuple[int, int], bytes] = {}
        acknowledged: dict[tuple[int, int], bytes] = {}
        threads = [
            threading.Thread(target=_publish_until_lost, args=(kit.bus(), kit.source, f"{round_}.{n}", acknowledged))
            for n in range(3)
        ]
        threads.append(threading.Thread(target=_read_until_lost, args=(kit.bus(), kit.source, seen)))
        for thread in threads:
            thread.start()
        time.sleep(chance.uniform(0.7, 1.2))
        crashable_log.crash()
        for thread in threads:
            thread.join(60)
        crashable_log.start()
        assert len(seen) > 10
        retried(partial(bus.publish, events(kit.source, range(200))))
        stored = {(r.partition, r.offset): r.value for r in retried(partial(read, bus, kit.source, 1))}
        changed = [place for place, value in seen.items() if stored.get(place) != value]
        assert not changed, f"{len(changed)} of {len(seen)} offsets seen by a reader hold something else now"
        lost = [place for place, value in acknowledged.items() if stored.get(place) != value]
        assert not lost, f"{len(lost)} of {len(acknowledged)} acknowledged events lost"


def _publish_until_lost(bus: Bus, topic: str, name: str, acknowledged: dict[tuple[int, int], bytes]) -> None:
    with contextlib.suppress(Transient):
        for number in range(1_000_000):
            value = f"{name}.{number}".encode()
            for place, offset in bus.publish([Outgoing(topic, b"k%d" % (number % 16), value)]):
                acknowledged[place.partition, offset] = value


def _read_until_lost(bus: Bus, topic: str, seen: dict[tuple[int, int], bytes]) -> None:
    with contextlib.suppress(Transient):
        reader = bus.reader([topic])
        while True:
            seen |= {(r.partition, r.offset): r.value for r in reader.poll(0.05)}


def test_a_publisher_and_a_reader_find_the_server_again(crashable_log: Crashable) -> None:
    """Each call that met the crash says Transient, nothing else; the same objects serve again afterwards."""
    kit = crashable_log.kit
    bus = kit.bus()
    reader, journal, consumer = bus.reader([kit.source]), bus.journal("j", kit.out), bus.consumer("g", [kit.source])
    bus.publish([Outgoing(kit.source, b"k", b"0", partition=0)])
    assert [r.value for r in reader.poll(30)] == [b"0"]
    until(lambda: consumer.poll(0.5) is not None, "a batch")
    crashable_log.crash()
    for call in (
        lambda: bus.publish([Outgoing(kit.source, b"k", b"never")]),
        lambda: bus.write(lambda _: []),
        lambda: bus.ends(kit.source),
        lambda: reader.poll(0.1),
        lambda: journal.publish([Outgoing(kit.out, b"k", b"never")], "never"),
        lambda: consumer.poll(0.1),
        lambda: PostgresBus(kit.connect, 4, kit.topics).partitions(kit.source),
    ):
        with pytest.raises(Transient):
            call()
    consumer.keep()
    crashable_log.start()
    retried(lambda: bus.publish([Outgoing(kit.source, b"k", b"1", partition=0)]))
    assert [r.value for r in retried(lambda: reader.poll(30))] == [b"1"]
    batch = retried(lambda: consumer.poll(30))
    assert [r.value for r in batch.records] == [b"0", b"1"]
    consumer.transform(batch, [])
    assert retried(lambda: bus.committed("g", kit.source))[TopicPartition(kit.source, 0)] == 2
    journal.close()
    again = retried(lambda: bus.journal("j", kit.out))
    assert again.mark == ""
    again.close()
    reader.close()
    consumer.close()


def test_a_database_is_waited_for_while_it_recovers(crashable_log: Crashable) -> None:
    """`start` returns when it takes connections, with everything that was committed."""
    kit = crashable_log.kit
    kit.bus().publish(events(kit.source, range(50)))
    for _ in range(2):
        crashable_log.crash()
        crashable_log.start()
        with contextlib.closing(psycopg2.connect(kit.url)):
            pass
    once_in_order(pairs(read(kit.bus(), kit.source, 50)), 50)
