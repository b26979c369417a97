"""Traps of the embedded log that the design names."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from kit import (
    SEED,
    EmbeddedKit,
    consume,
    events,
    member_of,
    once_in_order,
    pairs,
    poll,
    publish,
    read,
    set_session,
    until,
)
from psycopg2.extensions import TRANSACTION_STATUS_IDLE
from psycopg2.extensions import cursor as Cursor

from services.stream.bus import Outgoing, TopicPartition
from services.stream.errors import Fenced, Misconfigured, SlotTaken, Transient
from services.stream.membership import Member
from services.stream.postgres import PostgresBus, fetch, follow


@pytest.fixture
def kit(database: str, tmp_path: Path) -> Iterator[EmbeddedKit]:
    kit = EmbeddedKit(tmp_path, database)
    set_session(kit.session_s)
    kit.bus().create_topics()
    yield kit
    kit.close()


def in_threads(*works: Callable[[], None]) -> None:
    """Run them side by side; the first failure is raised."""
    failures: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_a_reader_never_meets_a_hole(kit: EmbeddedKit) -> None:
    """Commit order is offset order, whatever many publishers do at once, slow and failing ones among them."""
    done = threading.Event()
    finished: list[int] = []

    def publisher(number: int) -> None:
        chance = random.Random(SEED + number)
        bus = kit.bus()
        for n in range(60):
            sent = [
                Outgoing(kit.source, b"k%d" % chance.randrange(50), b"%d" % n) for _ in range(chance.randrange(1, 5))
            ]

            def write(cursor: Any, sent: list[Outgoing] = sent) -> list[Outgoing]:
                cursor.execute("SELECT pg_sleep(%s)", (chance.uniform(0, 0.004),))
                return sent

            bus.write(write)
            if n % 10 == 0:
                with contextlib.suppress(ZeroDivisionError):
                    bus.write(lambda _: 1 // 0)  # type: ignore[arg-type, return-value]
        finished.append(number)
        if len(finished) == 6:
            done.set()

    def reader() -> None:
        bus = kit.bus()
        reading = bus.reader([kit.source])
        upto = dict(reading.positions())
        while True:
            last = done.is_set()
            records = reading.poll(0.05)
            for record in records:
                place = TopicPartition(record.topic, record.partition)
                assert record.offset == upto[place], f"{place}: {record.offset} after {upto[place] - 1}"
                upto[place] += 1
            if last and not records:
                break
        assert upto == bus.ends(kit.source)
        reading.close()

    in_threads(reader, reader, *(lambda n=n: publisher(n) for n in range(6)))


def test_publishers_over_many_partitions_never_deadlock(kit: EmbeddedKit) -> None:
    """Each appends to both topics in an order of its own, in several chunks; a deadlock would show as Transient."""

    def publisher(number: int) -> None:
        chance = random.Random(SEED + number)
        bus = kit.bus()
        for _ in range(25):
            sent = [
                Outgoing(topic, b"k", b"x" * (2_500_000 if big else 1), partition=p)._replace(value=b"x" * big)
                for topic in (kit.source, kit.out)
                for p in range(4)
                for big in chance.sample([1, 10, 900_000], 2)
            ]
            chance.shuffle(sent)
            bus.publish(sent[:10])

    in_threads(*(lambda n=n: publisher(n) for n in range(5)))
    (deadlocks,) = kit.rows("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")[0]
    assert deadlocks == 0
    ends = kit.bus().ends(kit.source), kit.bus().ends(kit.out)
    assert sum(sum(end.values()) for end in ends) == 5 * 25 * 10


@pytest.mark.parametrize(("size", "most_rows"), [(1, 10), (900_000, 4)], ids=["records", "bytes"])
def test_one_look_fetches_no_more_than_it_gives(kit: EmbeddedKit, size: int, most_rows: int) -> None:
    """Limits hold for all partitions together; what a look leaves, the next ones get."""
    bus = kit.bus()
    for _ in range(5):
        bus.publish([Outgoing(kit.source, b"k", b"x" * size, partition=p) for p in range(4) for _ in range(4)])
    positions = dict.fromkeys((TopicPartition(kit.source, p) for p in (2, 0, 1, 3)), 0)
    seen: list[int] = []
    with contextlib.closing(kit.connect()) as connection, connection.cursor() as cursor:
        follow(connection, [kit.source])
        while records := fetch(cursor, positions, 40):
            rows = cursor.rowcount - len([p for p, at in positions.items() if at == 20])
            assert rows <= most_rows
            assert len(records) <= 40
            seen += [record.partition for record in records]
            positions |= {TopicPartition(kit.source, r.partition): r.offset + 1 for r in records}
    assert seen == [2] * 20 + [0] * 20 + [1] * 20 + [3] * 20, "in the order asked for"


def test_an_append_of_several_chunks_keeps_its_order(kit: EmbeddedKit) -> None:
    bus = kit.bus()
    sent = [Outgoing(kit.source, b"k", b"%d:" % n + b"x" * 900_000, partition=n % 2) for n in range(22)]
    placed = bus.publish(sent)
    for partition in range(2):
        assert [offset for place, offset in placed if place.partition == partition] == list(range(11))
    values = {(r.partition, r.offset): r.value for r in read(bus, kit.source, 22)}
    assert [values[place.partition, offset] for place, offset in placed] == [event.value for event in sent]


def test_a_lock_does_not_outlive_a_client_killed_inside_a_statement(kit: EmbeddedKit) -> None:
    """Its backend would run the statement to its end, for five minutes, and hold slot and partitions all the while."""
    set_session(3_600.0)  # so that nobody ends the silent one: the server itself must notice
    stuck = kit.member(3, role="stuck")
    until(lambda: len(stuck.owned()) == 4, "it to own all", detail=stuck.log)
    publish(kit.bus(), events(kit.source, range(20)))
    stuck.kill()
    with member_of(kit.bus(), kit, slot=3) as successor:
        once_in_order(pairs(consume(successor, 20, 30)), 20)


def test_a_silent_owner_inside_a_statement_is_ended(kit: EmbeddedKit) -> None:
    stuck = kit.member(0, role="stuck")
    until(lambda: len(stuck.owned()) == 4, "it to own all", detail=stuck.log)
    publish(kit.bus(), events(kit.source, range(20)))
    stuck.freeze()
    with member_of(kit.bus(), kit, slot=1) as other:
        once_in_order(pairs(consume(other, 20, 30)), 20)


def test_a_new_owner_starts_where_the_last_one_committed(kit: EmbeddedKit) -> None:
    """A position read in the statement that takes the lock may predate the last owner's commit.

    The lock is made slow here, so that there is time for that commit after the statement has taken its snapshot.
    """
    with contextlib.closing(kit.connect()) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE SCHEMA slow;"
            " CREATE FUNCTION slow.pg_try_advisory_lock(key bigint) RETURNS boolean LANGUAGE plpgsql AS '"
            " BEGIN PERFORM pg_sleep(0.004); RETURN pg_catalog.pg_try_advisory_lock(key); END'"
        )
        cursor.execute(f"ALTER DATABASE {connection.info.dbname} SET search_path = slow, pg_catalog, public")
    place = TopicPartition(kit.source, 0)
    bus = kit.bus()
    publish(bus, [Outgoing(kit.source, b"k", b"x", partition=0)] * 5_000)
    committed = [0]
    handovers = [0]
    deadline = time.monotonic() + 5

    def owner(slot: int) -> None:
        member = Member(kit.connect, kit.group, [place], slot)
        try:
            while time.monotonic() < deadline:
                member._acquire(place)
                lease = member.leases.get(place)
                if lease is None:
                    continue
                assert lease.position == committed[0], f"{lease.position}, though {committed[0]} is committed"
                with member.connection.cursor() as cursor:
                    cursor.execute(
                        "UPDATE log.position SET position = position + 1 WHERE grp = %s AND topic = %s"
                        " AND partition = %s AND position = %s AND generation = %s",
                        (kit.group, *place, lease.position, lease.generation),
                    )
                    assert cursor.rowcount == 1
                committed[0] += 1
                handovers[0] += 1
                member.release(place)
        finally:
            member.close()

    in_threads(*(lambda s=slot: owner(s) for slot in range(3)))
    assert handovers[0] > 50


def test_a_lock_alone_does_not_make_an_owner(kit: EmbeddedKit) -> None:
    """A commit under an old generation moves nothing, and publishes nothing, though the position is as it was."""
    bus = kit.bus()
    publish(bus, events(kit.source, range(20)))
    with member_of(bus, kit) as consumer:
        batch = poll(consumer)
        with contextlib.closing(kit.connect()) as connection, connection, connection.cursor() as cursor:
            cursor.execute("UPDATE log.position SET generation = generation + 1 WHERE grp = %s", (kit.group,))
        with pytest.raises(Fenced):
            consumer.transform(batch, [Outgoing(kit.out, b"k", b"never")])
        assert read(bus, kit.out, 0) == []
        assert len(consume(consumer, 20)) == 20


def test_a_member_whose_row_is_gone_joins_again(kit: EmbeddedKit) -> None:
    bus = kit.bus()
    publish(bus, events(kit.source, range(20)))
    with member_of(bus, kit) as consumer:
        batch = poll(consumer)
        with contextlib.closing(kit.connect()) as connection, connection, connection.cursor() as cursor:
            cursor.execute("DELETE FROM log.member WHERE grp = %s RETURNING work_pid", (kit.group,))
            (pid,) = cursor.fetchone() or (0,)
            cursor.execute("SELECT pg_terminate_backend(%s)", (pid,))
        with pytest.raises(Transient):
            consumer.transform(batch, [Outgoing(kit.out, b"k", b"never")])
        assert read(bus, kit.out, 0) == []
        again = poll(consumer)
        consumer.transform(again, [])
        assert [r.offset for r in again.records][:1] == [batch.records[0].offset]


def test_polling_covers_a_lost_notice(kit: EmbeddedKit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PostgresBus, "notify", lambda *_: None)
    bus = kit.bus()
    reader = bus.reader([kit.source])
    with member_of(bus, kit) as consumer:
        assert consumer.poll(0.5) is None
        later = threading.Timer(0.5, lambda: publish(kit.bus(), events(kit.source, range(3))))
        later.start()
        assert consumer.poll(30) is not None
        assert reader.poll(30)
        later.join()
    reader.close()


def test_an_idle_member_leaves_no_transaction_open(kit: EmbeddedKit) -> None:
    """Neither after a commit without events nor after a refused one: it would hold back vacuum for hours."""
    bus = kit.bus()
    publish(bus, events(kit.source, range(20)))
    with member_of(bus, kit, max_records=5) as consumer:
        consumer.sink(poll(consumer), lambda _: [])
        batch = poll(consumer)
        with pytest.raises(ZeroDivisionError):
            consumer.sink(batch, lambda _: 1 // 0)  # type: ignore[arg-type, return-value]
        time.sleep(0.3)  # past the next share-out, which is a statement of its own
        open_ = kit.rows("SELECT query FROM pg_stat_activity WHERE datname = current_database() AND xact_start < now()")
        assert open_ == []
        again = poll(consumer)
        bus.seek(kit.group, {TopicPartition(again.records[0].topic, again.records[0].partition): 0})
        with pytest.raises(Fenced):
            consumer.transform(again, [])
        time.sleep(0.3)
        assert consumer.poll(10) is not None
        open_ = kit.rows("SELECT query FROM pg_stat_activity WHERE datname = current_database() AND xact_start < now()")
        assert open_ == []


def test_a_taken_slot_says_what_to_do_and_does_no_harm(kit: EmbeddedKit) -> None:
    bus = kit.bus()
    publish(bus, events(kit.source, range(20)))
    with member_of(bus, kit) as holder:
        batch = poll(holder)
        with pytest.raises(SlotTaken, match="slot 0"), member_of(kit.bus(), kit) as second:
            second.poll(1)
        holder.transform(batch, [])


def test_an_unknown_topic_is_named(kit: EmbeddedKit) -> None:
    with pytest.raises(Misconfigured, match="nowhere"):
        kit.bus().publish([Outgoing("nowhere", b"k", b"v")])


def test_a_process_with_many_files_can_still_wait(kit: EmbeddedKit) -> None:
    """`select` takes no file above 1,023; a gateway with many streams has more."""
    with contextlib.ExitStack() as stack:
        for _ in range(1_100):
            stack.enter_context(Path("/dev/null").open())
        reader = kit.bus().reader([kit.source])
        assert list(reader.poll(0.3)) == []
        reader.close()


class Watched(Cursor):
    """Notes each notice that is sent, and whether it stands alone."""

    alone: ClassVar[list[bool]] = []

    def execute(self, query: Any, arguments: Any = None) -> None:
        if "pg_notify" in str(query):
            info = self.connection.info
            self.alone.append(self.connection.autocommit and info.transaction_status == TRANSACTION_STATUS_IDLE)
        super().execute(query, arguments)


def test_a_notice_is_never_part_of_the_publishing_transaction(
    kit: EmbeddedKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside it, all commits of the server would queue behind one lock until each is on the disk."""
    monkeypatch.setattr(Watched, "alone", [])

    def connect() -> Any:
        connection = kit.connect()
        connection.cursor_factory = Watched
        return connection

    bus = PostgresBus(connect, kit.partitions, kit.topics)
    event = Outgoing(kit.source, b"k", b"v")
    bus.publish([event])
    bus.write(lambda _: [event])
    with contextlib.closing(bus.journal("j", kit.source)) as journal:
        journal.publish([event], "1")
    with member_of(bus, kit) as consumer:
        consumer.transform(poll(consumer), [event])
    bus.close()
    assert Watched.alone == [True] * 4
