"""Traps of Kafka and of kafka-python that the adapter must keep shut; what both buses promise is tested beside this."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType, MemberToRemove
from kafka.errors import KafkaTimeoutError
from kafka_broker import Broker, kafka_broker
from kit import KafkaKit, events, pairs, read
from kit import once_in_order as kit_once_in_order

from services.stream.bus import Batch, Outgoing, Record, TopicPartition
from services.stream.database import connector
from services.stream.errors import Fenced, Misconfigured, Rejected, SlotTaken, Transient
from services.stream.events import LAST_MS
from services.stream.kafka import KafkaBus, client
from services.stream.kafka.outbox import Relay
from services.stream.topics import Topic

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]
__all__ = ["kafka_broker"]

_numbers = itertools.count()


class Stage:
    """One test's topics `source` and `target`, deployment and bus."""

    def __init__(self, broker: Broker, url: str) -> None:
        name = f"t{os.getpid()}n{next(_numbers)}"
        self.broker, self.url, self.deployment = broker, url, name
        self.source, self.target = f"{name}.source", f"{name}.target"
        self.bus = self.another_bus()
        self.bus.create_topics()

    def another_bus(self) -> KafkaBus:
        """As another process would open it."""
        topics = (Topic(self.source, None), Topic(self.target, None))
        return KafkaBus(self.broker.bootstrap, connector(self.url, "test"), deployment=self.deployment, topics=topics)

    def publish(self, count: int, first: int = 0) -> None:
        numbers = range(first, first + count)
        self.bus.publish([Outgoing(self.source, b"k%d" % (n % 16), b"%d" % n) for n in numbers])

    def copy(self, batch: Batch) -> list[Outgoing]:
        return [Outgoing(self.target, r.key, r.value) for r in batch.records]

    def evict(self, slot: int) -> None:
        """What the group does to a member that is silent for a session timeout."""
        with closing(KafkaAdminClient(bootstrap_servers=self.broker.bootstrap)) as admin:
            member = MemberToRemove(group_instance_id=f"{self.deployment}.g.{slot}")
            admin.remove_group_members(f"{self.deployment}.g", [member])

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(psycopg2.connect(self.url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def stage(kafka_broker: Broker, database: str) -> Iterator[Stage]:
    stage = Stage(kafka_broker, database)
    yield stage
    stage.bus.close()


def next_batch(consumer: Any, seconds: float = 30) -> Batch:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        batch: Batch | None = consumer.poll(0.5)
        if batch is not None:
            return batch
    raise AssertionError("no batch")


def drain(consumer: Any, count: int, step: Callable[[Batch], None]) -> None:
    done = 0
    while done < count:
        batch = next_batch(consumer)
        step(batch)
        done += len(batch.records)


def values(stage: Stage, topic: str, count: int, seconds: float = 60) -> list[Record]:
    """All records of a topic: waits for `count` and then for what should not come."""
    reader = stage.bus.reader([topic])
    records: list[Record] = []
    until = time.monotonic() + seconds
    while len(records) < count and time.monotonic() < until:
        records += reader.poll(0.5)
    records += reader.poll(0.5)
    reader.close()
    return records


def once_in_order(records: Sequence[Record], count: int) -> None:
    numbers = [int(record.value) for record in records]
    assert sorted(numbers) == list(range(count))
    per_key = defaultdict(list)
    for record in records:
        per_key[record.key].append(int(record.value))
    assert all(found == sorted(found) for found in per_key.values())


# ── membership and fencing ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_member_that_lost_its_session_cannot_commit(stage: Stage) -> None:
    stage.publish(40)
    zombie = stage.bus.consumer("g", [stage.source], 0)
    batch = next_batch(zombie)
    stage.evict(0)
    # The heartbeat finds out, and from then on group_metadata() is (-1, ''), which the broker lets pass.
    client = zombie._member._client
    while client.group_metadata().generation_id >= 0:
        time.sleep(0.1)
    heir = stage.bus.consumer("g", [stage.source], 1)
    drain(heir, 40, lambda found: heir.transform(found, stage.copy(found)))
    heir.close()  # with a member in the group the broker would still look at the zombie's instance id
    with pytest.raises(Fenced):
        zombie.transform(batch, stage.copy(batch))
    once_in_order(values(stage, stage.target, 40), 40)
    zombie.close()


def test_offsets_of_a_refused_commit_do_not_travel_with_the_next_one(stage: Stage) -> None:
    stage.publish(40)
    member = stage.bus.consumer("g", [stage.source], 0, max_records=1)
    first = next_batch(member)
    refused = TopicPartition(first.records[0].topic, first.records[0].partition)
    stage.evict(0)
    with pytest.raises(Fenced):
        member.transform(first, stage.copy(first))

    def transformed_another() -> bool:
        batch = next_batch(member)
        try:
            if batch.records[0].partition != refused.partition:
                member.transform(batch, stage.copy(batch))
                return True
        except Fenced:  # until a heartbeat has told it, it works on under its old membership
            pass
        member.rewind(batch)
        return False

    while not transformed_another():
        pass
    assert refused not in stage.bus.committed("g", stage.source)
    member.close()


def test_a_slot_taken_twice_ends_the_first_holder(stage: Stage) -> None:
    stage.publish(40)
    first = stage.bus.consumer("g", [stage.source], 0)
    batch = next_batch(first)
    second = stage.bus.consumer("g", [stage.source], 0)
    drain(second, 40, lambda found: second.transform(found, stage.copy(found)))
    with pytest.raises((SlotTaken, Fenced)):
        first.transform(batch, stage.copy(batch))
    with pytest.raises(SlotTaken):
        for _ in range(40):
            first.poll(0.25)
    first.close()  # must not end its successor
    stage.publish(16, first=40)
    drain(second, 16, lambda found: second.transform(found, stage.copy(found)))
    once_in_order(values(stage, stage.target, 56), 56)
    second.close()


def test_a_sink_whose_slot_is_taken_hears_of_it(stage: Stage) -> None:
    first = stage.bus.consumer("g", [stage.source], 0, sinks=True)
    first.poll(1)
    second = stage.bus.consumer("g", [stage.source], 0, sinks=True)
    second.poll(1)
    with pytest.raises(SlotTaken):
        for _ in range(40):
            first.poll(0.25)
    first.close()
    second.close()


def test_a_restart_ends_its_predecessors_open_transaction(stage: Stage) -> None:
    stage.publish(10)
    member = stage.bus.consumer("g", [stage.source], 0)
    drain(member, 10, lambda found: member.transform(found, stage.copy(found)))
    producer = member._transactions._producer
    producer.begin_transaction()
    producer.send(stage.source, b"lost", partition=0)
    producer.flush()
    before = stage.bus.ends(stage.source)
    began = time.monotonic()
    heir = stage.bus.consumer("g", [stage.source], 0)
    heir.poll(2)
    while stage.bus.ends(stage.source) == before:
        assert time.monotonic() - began < 8, "readers waited for the transaction's timeout"
        time.sleep(0.1)
    heir.close()


def test_a_publishers_restart_ends_what_it_left_open(stage: Stage) -> None:
    def opened() -> KafkaBus:
        return KafkaBus(
            stage.broker.bootstrap,
            connector(stage.url, "test"),
            deployment=stage.deployment,
            topics=(Topic(stage.source, None),),
            publisher="gateway.0",
        )

    events = [Outgoing(stage.source, b"k", b"%d" % n, partition=0) for n in range(3)]
    with closing(opened()) as killed, closing(opened()) as heir:
        killed.publish(events[:2])
        producer = killed._several._producer  # type: ignore[union-attr]
        producer.begin_transaction()
        producer.send(stage.source, b"lost", partition=0)
        producer.flush()
        began = time.monotonic()
        heir.publish(events[2:])
        assert [record.value for record in values(stage, stage.source, 3)] == [b"0", b"1", b"2"]
        assert time.monotonic() - began < 8, "readers waited for the transaction's timeout"
        with closing(opened()) as second:
            second.publish(events[:1])
            with pytest.raises(SlotTaken):
                heir.publish(events[:2])
    with closing(stage.another_bus()) as command, closing(stage.another_bus()) as other:
        for bus in (command, other, command, other):  # without a name nobody is in another's way
            bus.publish(events[:2])


def test_topics_keep_their_events_as_long_as_is_set_now(stage: Stage) -> None:
    hour = 3_600_000
    name = f"{stage.deployment}.kept"
    for retention in (hour, 2 * hour, None):
        bus = KafkaBus(
            stage.broker.bootstrap,
            connector(stage.url, "test"),
            deployment=stage.deployment,
            topics=(Topic(name, retention),),
        )
        with closing(bus), closing(KafkaAdminClient(bootstrap_servers=stage.broker.bootstrap)) as admin:
            bus.create_topics()
            asked = [ConfigResource(ConfigResourceType.TOPIC, name)]
            (found,) = admin.describe_configs(asked, config_filter="all").values()
        settings = {key: its["value"] for key, its in found[name].items()}
        assert settings["retention.ms"] == str(-1 if retention is None else retention)
        assert settings["retention.bytes"] == "-1"
        assert settings["message.timestamp.type"] == "LogAppendTime"
        if retention is not None:
            assert settings["segment.ms"] == str(retention // 8), "retention drops whole segments"


def test_producers_hardly_wait_between_tries(stage: Stage) -> None:
    """At the default of 100 ms each transaction of one record takes 106 ms: its first request comes too early."""
    for transactional_id in (None, f"{stage.deployment}.x"):
        with closing(client.producer(stage.broker.bootstrap, transactional_id)) as producer:
            assert producer.config["retry_backoff_ms"] == 1


def test_closing_hands_over_at_once(stage: Stage) -> None:
    stage.publish(16)
    first = stage.bus.consumer("g", [stage.source], 0)
    next_batch(first)
    first.close()
    began = time.monotonic()
    second = stage.bus.consumer("g", [stage.source], 1)
    drain(second, 16, lambda found: second.transform(found, []))
    assert time.monotonic() - began < 6, "it waited for the session timeout"
    second.close()


# ── aborts, positions ───────────────────────────────────────────────────────────────────────────────────────────────


def test_an_aborted_step_publishes_nothing_and_is_given_again(stage: Stage) -> None:
    stage.publish(40)
    member = stage.bus.consumer("g", [stage.source], 0)
    batch = next_batch(member)
    oversize_key = Outgoing(stage.target, b"k" * 1_200_000, b"", partition=0)  # passes check_size, fails at the broker
    with pytest.raises(Rejected):
        member.transform(batch, [*stage.copy(batch), oversize_key])
    with pytest.raises(Fenced):
        member.transform(batch, stage.copy(batch))
    member.rewind(batch)
    drain(member, 40, lambda found: member.transform(found, stage.copy(found)))
    once_in_order(values(stage, stage.target, 40), 40)
    member.close()


def test_a_rewound_partition_does_not_stall_behind_the_others(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.publish(400)
    member = stage.bus.consumer("g", [stage.source], 0, max_records=10)
    member.rewind(next_batch(member))
    with monkeypatch.context() as patch:
        patch.setattr(member._member, "_locate", unsettled)
        for _ in range(25):  # the others flow meanwhile
            if (batch := member.poll(0.2)) is not None:
                member.transform(batch, stage.copy(batch))
    until = time.monotonic() + 30
    while (done := sum(stage.bus.committed("g", stage.source).values())) < 400:
        assert time.monotonic() < until, f"stuck after {done} of 400"
        if (batch := member.poll(0.2)) is not None:
            member.transform(batch, stage.copy(batch))
    once_in_order(values(stage, stage.target, 400), 400)
    member.close()


def unsettled(*_: Any) -> Any:
    """A position that somebody's open transaction holds back."""
    raise KafkaTimeoutError


def test_aborted_records_are_never_read_and_open_ones_not_yet(stage: Stage) -> None:
    stranger = KafkaProducer(
        bootstrap_servers=stage.broker.bootstrap, transactional_id=stage.deployment + ".x", retry_backoff_ms=1
    )
    stranger.init_transactions()
    stranger.begin_transaction()
    stranger.send(stage.source, b"aborted", partition=0)
    stranger.flush()
    stage.bus.publish([Outgoing(stage.source, b"k", b"kept", partition=0)])
    place = TopicPartition(stage.source, 0)
    reader = stage.bus.reader([stage.source])
    assert not reader.poll(0.5)
    assert stage.bus.ends(stage.source)[place] == 0
    stranger.abort_transaction()
    stranger.close()
    assert [record.value for record in reader.poll(5)] == [b"kept"]
    reader.poll(0.5)
    assert reader.positions() == stage.bus.ends(stage.source)  # past the aborted record and both end marks
    reader.close()


def test_drained_partitions_show_no_lag(stage: Stage) -> None:
    stage.publish(100)
    member = stage.bus.consumer("g", [stage.source], 0)
    drain(member, 100, lambda found: member.transform(found, stage.copy(found)))
    assert stage.bus.committed("g", stage.source) == stage.bus.ends(stage.source)
    member.close()


def aborted(stage: Stage, topic: str) -> None:
    """What a stranger's failed transaction leaves at the end of each partition."""
    stranger = KafkaProducer(
        bootstrap_servers=stage.broker.bootstrap, transactional_id=stage.deployment + ".x", retry_backoff_ms=1
    )
    stranger.init_transactions()
    stranger.begin_transaction()
    for partition in range(4):
        stranger.send(topic, b"aborted", partition=partition)
    stranger.flush()
    stranger.abort_transaction()
    stranger.close()


@pytest.mark.parametrize("sinks", [False, True])
def test_what_no_reader_sees_is_no_lag(stage: Stage, sinks: bool) -> None:
    stage.publish(40)
    member = stage.bus.consumer("g", [stage.source], 0, sinks=sinks)
    drain(member, 40, lambda found: member.transform(found, []))
    aborted(stage, stage.source)
    until = time.monotonic() + 30
    while stage.bus.committed("g", stage.source) != stage.bus.ends(stage.source):
        assert time.monotonic() < until
        assert member.poll(0.2) is None
    stage.publish(16, first=40)
    drain(member, 16, lambda found: member.transform(found, []))
    member.close()


@pytest.mark.parametrize("sinks", [False, True])
def test_a_batch_in_hand_is_not_passed_over(stage: Stage, sinks: bool) -> None:
    stage.publish(40)
    member = stage.bus.consumer("g", [stage.source], 0, sinks=sinks)
    first = next_batch(member)
    aborted(stage, stage.source)
    held = {record.value for record in first.records}
    while (batch := member.poll(1.0)) is not None:
        held |= {record.value for record in batch.records}
    assert len(held) == 40
    for _ in range(5):
        assert member.poll(0.2) is None
    assert stage.bus.committed("g", stage.source) == {}
    member.close()


@pytest.mark.parametrize("sinks", [False, True])
def test_seeking_under_live_members_is_refused(stage: Stage, sinks: bool) -> None:
    stage.publish(16)
    member = stage.bus.consumer("g", [stage.source], 0, sinks=sinks)
    drain(member, 16, lambda found: member.transform(found, []))
    with pytest.raises(Transient, match="live members"):
        stage.bus.seek("g", stage.bus.begins(stage.source))
    member.close()
    stage.bus.seek("g", stage.bus.begins(stage.source))
    assert stage.bus.committed("g", stage.source) == stage.bus.begins(stage.source)


def test_a_strangers_records_need_neither_key_nor_value(stage: Stage) -> None:
    stranger = KafkaProducer(bootstrap_servers=stage.broker.bootstrap, compression_type="gzip")
    stranger.send(stage.source, value=None, key=b"k", partition=0)
    stranger.send(stage.source, value=b"v", key=None, partition=0)
    stranger.close()
    assert [(r.key, r.value) for r in values(stage, stage.source, 2)] == [(b"k", b""), (b"", b"v")]


def test_times_of_a_strangers_clock_are_times(stage: Stage) -> None:
    name = f"{stage.deployment}.by-hand"  # made by someone who left the timestamps to the producers
    configs = {"message.timestamp.type": "CreateTime", "message.timestamp.after.max.ms": str(2**63 - 1)}
    with closing(KafkaAdminClient(bootstrap_servers=stage.broker.bootstrap)) as admin:
        admin.create_topics({name: {"num_partitions": 1, "configs": configs}})
        admin.wait_for_topics([name])
    absurd = [0, 1, LAST_MS, LAST_MS + 1, 2**62]
    with closing(KafkaProducer(bootstrap_servers=stage.broker.bootstrap)) as stranger:
        for topic in (name, stage.source):
            for at in absurd:
                stranger.send(topic, b"%d" % at, timestamp_ms=at, partition=0).get(10)
    bus = KafkaBus(
        stage.broker.bootstrap, connector(stage.url, "test"), deployment=stage.deployment, topics=(Topic(name, None),)
    )
    with closing(bus), closing(bus.reader([name])) as reader:
        found = [record.timestamp for _ in range(10) for record in reader.poll(0.5)]
    assert found == [0, 1, LAST_MS, LAST_MS, LAST_MS]
    assert all(abs(r.timestamp - time.time() * 1000) < 600_000 for r in values(stage, stage.source, len(absurd)))


class Bytes(str):
    """A header's name that is sent as these Latin-1 bytes, as a client in another language may."""

    def encode(self, *_: Any) -> bytes:
        return super().encode("latin-1")


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_header_whose_name_is_not_utf8_stops_nobody(stage: Stage, compression: str | None) -> None:
    stranger = KafkaProducer(bootstrap_servers=stage.broker.bootstrap, compression_type=compression, linger_ms=200)
    headers = [("héllo", b"1"), (Bytes("s\xe9nder"), b"\xff"), (Bytes("\xff"), b""), ("plain", b"2")]
    for number in range(4):  # the name's bytes are in key and value as well, where they must stay
        stranger.send(stage.source, b"s\xe9nder%d" % number, b"s\xe9nder", headers if number % 2 else [], partition=0)
    stranger.close()
    found = [("héllo", b"1"), ("s?nder", b"\xff"), ("?", b""), ("plain", b"2")]
    records = values(stage, stage.source, 4)
    assert [(r.key, r.value) for r in records] == [(b"s\xe9nder", b"s\xe9nder%d" % n) for n in range(4)]
    # A broker that compresses anew puts U+FFFD itself.
    headers_read = [[(name.replace("\ufffd", "?"), value) for name, value in r.headers] for r in records]
    assert headers_read == [[], found, [], found]
    member = stage.bus.consumer("g", [stage.source], 0)
    drain(member, 4, lambda batch: member.transform(batch, stage.copy(batch)))
    assert len(values(stage, stage.target, 4)) == 4
    member.close()


# ── sinks, outbox, journal ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_sink_that_lost_its_partitions_leaves_no_rows(stage: Stage) -> None:
    stage.rows("CREATE TABLE effect (value text)")

    def write(batch: Batch) -> Callable[[Any], list[Outgoing]]:
        def insert(cursor: Any) -> list[Outgoing]:
            for record in batch.records:
                cursor.execute("INSERT INTO effect VALUES (%s)", (record.value.decode(),))
            return []

        return insert

    stage.publish(40)
    zombie = stage.bus.consumer("g", [stage.source], 0, sinks=True)
    batch = next_batch(zombie)
    stage.evict(0)
    heir = stage.bus.consumer("g", [stage.source], 1, sinks=True)
    drain(heir, 40, lambda found: heir.sink(found, write(found)))
    with pytest.raises(Fenced):
        zombie.sink(batch, write(batch))
    assert sorted(int(value) for (value,) in stage.rows("SELECT value FROM effect")) == list(range(40))
    zombie.close()
    heir.close()


def test_a_topic_made_anew_under_its_name_is_sunk_from_its_beginning(stage: Stage) -> None:
    stage.publish(40)
    member = stage.bus.consumer("g", [stage.source], 0, sinks=True)
    drain(member, 40, lambda found: member.sink(found, lambda _: []))
    member.close()
    with closing(KafkaAdminClient(bootstrap_servers=stage.broker.bootstrap)) as admin:
        admin.delete_topics([stage.source])
        until = time.monotonic() + 30
        while stage.source in admin.list_topics():
            assert time.monotonic() < until
            time.sleep(0.1)
    with closing(stage.another_bus()) as bus:
        bus.create_topics()
        assert bus.committed("g", stage.source) == {}
        bus.publish([Outgoing(stage.source, b"k%d" % n, b"%d" % n) for n in range(16)])
        heir = bus.consumer("g", [stage.source], 0, sinks=True)
        drain(heir, 16, lambda found: heir.sink(found, lambda _: []))
        heir.close()
    assert stage.rows("SELECT count(DISTINCT topic_id) FROM log.sink_position") == [(2,)]


@contextmanager
def relaying(bus: KafkaBus) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=bus.relay, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def enqueue(stage: Stage, first: int, count: int) -> None:
    for number in range(first, first + count):
        event = Outgoing(stage.target, b"k%d" % (number % 16), b"%d" % number, (("h", b"v"),))
        stage.bus.write(lambda _, event=event: [event])  # type: ignore[misc]


class Crash(BaseException):
    """Stands for the process's end."""


def test_a_relay_that_dies_between_publishing_and_deleting_publishes_nothing_twice(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue(stage, 0, 20)
    with monkeypatch.context() as patch:

        def delete(*_: Any) -> None:
            if len(calls := [*patched, 1]) == 2:
                raise Crash
            patched.extend(calls[-1:])

        patched: list[int] = []
        patch.setattr(Relay, "_delete", delete)
        with pytest.raises(Crash):
            stage.bus.relay(threading.Event())
    assert stage.rows("SELECT count(*) FROM log.outbox") == [(20,)]
    enqueue(stage, 20, 20)
    with relaying(stage.bus):
        records = values(stage, stage.target, 40)
    once_in_order(records, 40)
    assert {record.headers for record in records} == {(("h", b"v"),)}
    assert stage.rows("SELECT count(*) FROM log.outbox") == [(0,)]


def test_of_two_relays_one_stands_by_and_takes_over(stage: Stage) -> None:
    other = stage.another_bus()
    with relaying(stage.bus):
        enqueue(stage, 0, 20)
        with relaying(other):
            enqueue(stage, 20, 20)
            stage.rows("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
            enqueue(stage, 40, 20)
            records = values(stage, stage.target, 60)
    once_in_order(records, 60)
    other.close()


def test_a_relay_knows_its_database(stage: Stage) -> None:
    enqueue(stage, 0, 5)
    with relaying(stage.bus):
        values(stage, stage.target, 5)
    stage.rows("UPDATE log.outbox_head SET next = 2")
    with pytest.raises(Misconfigured, match="older than the log"):
        stage.bus.relay(threading.Event())
    stage.rows("UPDATE log.outbox_head SET epoch = gen_random_uuid()")
    enqueue(stage, 5, 1)
    with relaying(stage.bus):
        once_in_order(values(stage, stage.target, 6), 6)


def test_a_journal_decides_what_a_failure_left_open(stage: Stage) -> None:
    journal = stage.bus.journal("file", stage.target)
    journal.publish([Outgoing(stage.target, b"k", b"0")], "1")
    journal._transactions.close()  # as after a commit without an answer, which did happen
    journal._count, journal.mark = 0, ""
    journal.publish([Outgoing(stage.target, b"k", b"0")], "1")
    journal.publish([Outgoing(stage.target, b"k", b"1")], "2")
    once_in_order(values(stage, stage.target, 2), 2)
    heir = stage.another_bus().journal("file", stage.target)
    assert heir.mark == "2"
    with pytest.raises(Fenced):
        journal.publish([Outgoing(stage.target, b"k", b"2")], "3")
    with pytest.raises(Fenced):
        journal.publish([Outgoing(stage.target, b"k", b"2")], "3")
    heir.publish([Outgoing(stage.target, b"k", b"2")], "3")
    once_in_order(values(stage, stage.target, 3), 3)
    heir.close()


# ── processes ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_slot_restarted_while_its_holder_is_stopped(kafka_broker: Broker, database: str, tmp_path: Path) -> None:
    kit = KafkaKit(tmp_path, database, kafka_broker.bootstrap)
    bus = kit.bus()
    bus.create_topics()
    bus.publish(events(kit.source, range(2_000)))
    zombie = kit.member(0, sleep=0.05)
    zombie.wait_for("committed", 5)
    zombie.freeze()
    heir = kit.member(0)
    kit_once_in_order(pairs(read(bus, kit.out, 2_000)), 2_000)
    zombie.thaw()
    assert zombie.process.wait(30) == 3
    assert zombie.wait_for("ended")["error"] == "SlotTaken"
    bus.publish(events(kit.source, range(2_000, 2_100)))
    kit_once_in_order(pairs(read(bus, kit.out, 2_100)), 2_100)
    assert heir.stop() == 0
    kit.close()
