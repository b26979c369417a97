"""Reading and publishing: order per key, places, nothing that was rolled back, nothing lost on a slow reader."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from kit import (
    consume,
    effects,
    events,
    insert_effects,
    make_effects,
    member_of,
    once_in_order,
    pairs,
    poll,
    publish,
    read,
)

from services.stream.bus import Outgoing, Record, TopicPartition, partition_of
from services.stream.errors import Rejected
from services.stream.topics import MAX_EVENT_BYTES, dead


def test_a_key_keeps_its_partition_and_its_order(bus_kit: Any) -> None:
    bus = bus_kit.bus()
    for start in range(0, 300, 30):
        publish(bus, events(bus_kit.source, range(start, start + 30)))
    records = read(bus, bus_kit.source, 300)
    once_in_order(pairs(records), 300)
    assert all(r.partition == partition_of(r.key, bus_kit.partitions) for r in records)
    assert len({r.partition for r in records}) == bus_kit.partitions


def test_publish_tells_where_each_event_lies(bus_kit: Any) -> None:
    bus = bus_kit.bus()
    sent = [
        Outgoing(bus_kit.source, b"k", b"first", (("h", b"1"), ("h", b"\x00\xff"))),
        Outgoing(bus_kit.out, b"k", b"second"),
        Outgoing(bus_kit.source, b"other", b"third", partition=1),
        Outgoing(bus_kit.source, b"k", b"fourth"),
    ]
    placed = publish(bus, sent)
    records = [record for topic in (bus_kit.source, bus_kit.out) for record in read(bus, topic, 1)]
    found = {(r.topic, r.partition, r.offset): r for r in records}
    for event, (place, offset) in zip(sent, placed, strict=True):
        record = found[(*place, offset)]
        assert (record.key, record.value, record.headers) == (event.key, event.value, event.headers)
    assert placed[2][0] == TopicPartition(bus_kit.source, 1)
    assert placed[3][1] > placed[0][1]


def test_arrival_times_are_the_logs_own_and_never_run_backwards(bus_kit: Any) -> None:
    bus = bus_kit.bus()
    before = time.time() * 1000
    for number in range(20):
        publish(bus, [Outgoing(bus_kit.source, b"k", b"%d" % number)])
    times = [r.timestamp for r in read(bus, bus_kit.source, 20)]
    assert times == sorted(times)
    assert before - 1000 <= times[0] <= times[-1] <= time.time() * 1000 + 1000


def test_publish_is_all_or_nothing(bus_kit: Any) -> None:
    bus = bus_kit.bus()
    good = events(bus_kit.source, range(5))
    with pytest.raises(Rejected) as refused:
        bus.publish([*good, Outgoing(bus_kit.source, b"k", b"x" * (MAX_EVENT_BYTES + 1))])
    assert refused.value.reason == "oversize"
    assert read(bus, bus_kit.source, 0) == []
    publish(bus, [])
    publish(bus, good)
    once_in_order(pairs(read(bus, bus_kit.source, 5)), 5)


def test_the_limit_counts_headers_and_dead_topics_take_what_their_source_takes(bus_kit: Any) -> None:
    bus = bus_kit.bus()
    largest = b"x" * MAX_EVENT_BYTES
    with pytest.raises(Rejected):
        bus.publish([Outgoing(bus_kit.source, b"k", largest, (("h", b"1"),))])
    publish(bus, [Outgoing(bus_kit.source, b"k", largest)])
    headers = (("reason", b"x" * 4000), ("origin", b"y" * 4000))
    publish(bus, [Outgoing(dead(bus_kit.source), b"k", largest, headers)])
    (record,) = read(bus, dead(bus_kit.source), 1)
    assert record.value == largest
    assert record.headers == headers
    with member_of(bus, bus_kit) as consumer:  # and a consumer gets the largest one
        (record,) = consume(consumer, 1)
    assert record.value == largest


def test_many_large_events_in_one_publish(bus_kit: Any) -> None:
    bus = bus_kit.bus()
    sent = [Outgoing(bus_kit.source, b"k%d" % (i % 3), b"%d:" % i + b"x" * 700_000) for i in range(20)]
    placed = publish(bus, sent)
    records = {(TopicPartition(r.topic, r.partition), r.offset): r.value for r in read(bus, bus_kit.source, 20)}
    assert [records[place] for place in placed] == [event.value for event in sent]


def test_a_reader_waits_for_what_comes_and_returns_empty_handed_in_time(bus_kit: Any) -> None:
    bus = bus_kit.bus()
    reader = bus.reader([bus_kit.source, bus_kit.out])
    assert list(reader.poll(0.3)) == []
    later = threading.Timer(0.5, lambda: publish(bus_kit.bus(), [Outgoing(bus_kit.out, b"k", b"late")]))
    later.start()
    assert [r.value for r in reader.poll(30)] == [b"late"]
    later.join()
    reader.close()


def test_a_slow_reader_loses_nothing(bus_kit: Any) -> None:
    """It reads a few records at a time while far more are published than any buffer holds."""
    bus, other = bus_kit.bus(), bus_kit.bus()
    pad = b" " * 20_000

    def publish_all() -> None:
        for start in range(0, 1000, 100):
            publish(other, [e._replace(value=e.value + pad) for e in events(bus_kit.source, range(start, start + 100))])

    thread = threading.Thread(target=publish_all)
    thread.start()
    reader = bus.reader([bus_kit.source])
    records: list[Record] = []
    while len(records) < 1000:
        got = reader.poll(30, max_records=40)
        assert 0 < len(got) <= 40
        records += got
        time.sleep(0.02)
    assert list(reader.poll(0.3)) == []
    thread.join()
    once_in_order(pairs(records), 1000)
    assert reader.positions() == bus.ends(bus_kit.source)
    reader.close()


def test_readers_go_their_own_ways(bus_kit: Any) -> None:
    bus = bus_kit.bus()
    placed = publish(bus, [Outgoing(bus_kit.source, b"k", b"%d" % i) for i in range(6)])
    place = placed[0][0]
    first, second = bus.reader([bus_kit.source]), bus.reader([bus_kit.source], {place: placed[4][1]})
    assert [r.value for r in second.poll(30)] == [b"4", b"5"]
    seen: list[bytes] = []
    while len(seen) < 6:
        seen += [r.value for r in first.poll(30, max_records=2)]
    assert seen == [b"%d" % i for i in range(6)]
    first.close()
    second.close()


def test_what_is_rolled_back_is_never_read(bus_kit: Any) -> None:
    """A sink whose write fails after it wrote leaves neither rows nor events nor progress."""
    bus = bus_kit.bus()
    make_effects(bus_kit)
    publish(bus, events(bus_kit.source, range(10)))
    with bus_kit.relay(), member_of(bus, bus_kit, sinks=True) as consumer:
        batch = poll(consumer)

        def broken(cursor: Any) -> list[Outgoing]:
            insert_effects(cursor, batch.records)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            consumer.sink(batch, broken)

        def oversize(cursor: Any) -> list[Outgoing]:
            insert_effects(cursor, batch.records)
            return [*events(bus_kit.out, range(5)), Outgoing(bus_kit.out, b"k", b"x" * (MAX_EVENT_BYTES + 1))]

        with pytest.raises(Rejected):
            consumer.sink(batch, oversize)
        assert effects(bus_kit) == []
        assert read(bus, bus_kit.out, 0) == []
        consumer.rewind(batch)
        done = 0
        while done < 10:
            again = poll(consumer)

            def good(cursor: Any, records: Any = again.records) -> list[Outgoing]:
                insert_effects(cursor, records)
                return [Outgoing(bus_kit.out, r.key, r.value) for r in records]

            consumer.sink(again, good)
            done += len(again.records)
        once_in_order(effects(bus_kit), 10)
        once_in_order(pairs(read(bus, bus_kit.out, 10)), 10)


def test_write_is_rows_and_events_in_one_effect(bus_kit: Any) -> None:
    """Also as the first thing that a process does with its bus."""
    make_effects(bus_kit)

    def write(cursor: Any, number: int = 0) -> list[Outgoing]:
        cursor.execute("INSERT INTO effect (key, number) VALUES ('k', %s)", (number,))
        return [Outgoing(bus_kit.out, b"k", b"%d" % number)]

    with bus_kit.relay():
        bus_kit.bus().write(write)
        bus = bus_kit.bus()

        def broken(cursor: Any) -> list[Outgoing]:
            write(cursor, 99)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            bus.write(broken)
        with pytest.raises(Rejected):
            bus.write(lambda cursor: [*write(cursor, 98), Outgoing(bus_kit.out, b"k", b"x" * (MAX_EVENT_BYTES + 1))])
        for number in range(1, 20):
            bus.write(lambda cursor, number=number: write(cursor, number))
        once_in_order(effects(bus_kit), 20)
        once_in_order(pairs(read(bus, bus_kit.out, 20)), 20)


def test_events_of_writers_side_by_side_come_once_and_in_their_order(bus_kit: Any) -> None:
    failures: list[BaseException] = []

    def work(name: str, slot: int) -> None:
        try:
            bus = bus_kit.bus()
            for number in range(slot, 120, 3):
                bus.write(lambda _, number=number: [Outgoing(bus_kit.out, name.encode(), b"%d" % number)])
        except BaseException as error:
            failures.append(error)

    with bus_kit.relay():
        threads = [threading.Thread(target=work, args=(f"k{slot}", slot)) for slot in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        once_in_order(pairs(read(bus_kit.bus(), bus_kit.out, 120)), 120)
