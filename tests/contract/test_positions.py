"""Where a group stands: committed positions, marks, replay from an offset or a time."""

from __future__ import annotations

import time
from functools import partial
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
    until,
)

from services.stream.bus import Outgoing, TopicPartition
from services.stream.errors import Fenced, Transient


def spread(kit: Any, each: int, start: int = 0) -> list[Outgoing]:
    """`each` events for every partition."""
    return [
        Outgoing(kit.source, b"p%d" % p, b"%d" % (start + p * each + i), partition=p)
        for p in range(kit.partitions)
        for i in range(each)
    ]


def test_begins_and_ends(bus_kit: Any) -> None:
    bus = bus_kit.bus()
    places = [TopicPartition(bus_kit.source, p) for p in range(bus_kit.partitions)]
    assert bus.partitions(bus_kit.source) == bus_kit.partitions
    assert bus.begins(bus_kit.source) == bus.ends(bus_kit.source) == dict.fromkeys(places, 0)
    placed = publish(bus, spread(bus_kit, 5))
    last = dict(placed)
    # Kafka answers a commit before its end marks are written.
    until(lambda: all(bus.ends(bus_kit.source)[place] > last[place] for place in places), "the events to be visible")
    ends = bus.ends(bus_kit.source)
    assert bus.begins(bus_kit.source) == dict.fromkeys(places, 0)
    reader = bus.reader([bus_kit.source], ends)
    assert list(reader.poll(0.3)) == []
    bus.create_topics()  # idempotent
    assert bus.ends(bus_kit.source) == ends
    reader.close()


def test_a_commit_is_seen_by_everyone_and_survives_its_member(bus_kit: Any) -> None:
    bus = bus_kit.bus()
    assert bus.committed(bus_kit.group, bus_kit.source) == {}
    publish(bus, spread(bus_kit, 5))
    with member_of(bus, bus_kit, max_records=7) as consumer:
        batch = poll(consumer)
        consumer.transform(batch, [Outgoing(bus_kit.out, b"k", b"0")])
    done = {(r.partition, r.offset) for r in batch.records}
    committed = bus_kit.bus().committed(bus_kit.group, bus_kit.source)
    for place in {TopicPartition(r.topic, r.partition) for r in batch.records}:
        assert committed[place] > max(r.offset for r in batch.records if r.partition == place.partition)
    with member_of(bus, bus_kit, slot=1) as successor:
        rest = consume(successor, 20 - len(done))
    assert not done & {(r.partition, r.offset) for r in rest}
    once_in_order(pairs([*batch.records, *rest]), 20)
    assert len(read(bus, bus_kit.out, 1)) == 1
    with member_of(bus, bus_kit, group=bus_kit.group + "2") as other:  # groups know nothing of each other
        assert len(consume(other, 20)) == 20


def test_what_is_not_committed_comes_again(bus_kit: Any) -> None:
    bus = bus_kit.bus()
    publish(bus, [Outgoing(bus_kit.source, b"k", b"%d" % i) for i in range(10)])
    with member_of(bus, bus_kit, max_records=4) as consumer:
        first = poll(consumer)
        consumer.rewind(first)
        again = poll(consumer)
        assert again.records[0] == first.records[0]
        consumer.transform(again, [])
        following = poll(consumer)
        assert following.records[0].offset > again.records[-1].offset
        taken = len(again.records)
    with member_of(bus, bus_kit, slot=1) as successor:  # closed with a batch in hand: its successor gets it
        once_in_order([(k, n - taken) for k, n in pairs(consume(successor, 10 - taken))], 10 - taken)


@pytest.mark.parametrize("sinks", [False, True], ids=["transform", "sink"])
def test_marks_travel_with_the_partition(bus_kit: Any, sinks: bool) -> None:
    bus = bus_kit.bus()
    publish(bus, spread(bus_kit, 3))

    def commit(consumer: Any, batch: Any, marks: Any) -> None:
        if sinks:
            consumer.sink(batch, lambda _: [], marks)
        else:
            consumer.transform(batch, [], marks)

    marks: dict[TopicPartition, str] = {}
    with member_of(bus, bus_kit, sinks=sinks) as consumer:
        taken = 0
        while taken < 12:
            batch = poll(consumer)
            assert set(consumer.owned().values()) | {""} == {"", *marks.values()}
            new = {p: f"epoch {p.partition} €" for p in {TopicPartition(r.topic, r.partition) for r in batch.records}}
            commit(consumer, batch, new)
            marks |= new
            taken += len(batch.records)
        assert consumer.owned() == marks
    publish(bus, [Outgoing(bus_kit.source, b"p0", b"12", partition=0)])
    with member_of(bus, bus_kit, slot=1, sinks=sinks) as successor:
        batch = poll(successor)
        assert successor.owned() == marks
        commit(successor, batch, {})  # a commit without a mark keeps the old one
    publish(bus, [Outgoing(bus_kit.source, b"p0", b"13", partition=0)])
    with member_of(bus, bus_kit, slot=2, sinks=sinks) as third:
        poll(third)
        assert third.owned() == marks


def test_offsets_at_a_time(bus_kit: Any) -> None:
    bus = bus_kit.bus()
    publish(bus, spread(bus_kit, 3))
    time.sleep(0.05)
    between = int(time.time() * 1000)
    ends = bus.ends(bus_kit.source)
    time.sleep(0.05)
    later = publish(bus, [Outgoing(bus_kit.source, b"k", b"x", partition=1)])
    at = bus.offsets_at(bus_kit.source, between)
    changed = TopicPartition(bus_kit.source, 1)
    assert at[changed] == later[0][1]
    now = bus.ends(bus_kit.source)
    assert {p: o for p, o in at.items() if p != changed} == {p: o for p, o in now.items() if p != changed}
    assert {p: o for p, o in ends.items() if p != changed} == {p: o for p, o in at.items() if p != changed}
    assert bus.offsets_at(bus_kit.source, 0) == bus.begins(bus_kit.source)
    assert bus.offsets_at(bus_kit.source, between + 3_600_000) == now


@pytest.mark.parametrize("sinks", [False, True], ids=["transform", "sink"])
def test_replay_from_an_offset_and_from_a_time(bus_kit: Any, sinks: bool) -> None:
    bus = bus_kit.bus()
    make_effects(bus_kit)
    publish(bus, [Outgoing(bus_kit.source, b"k", b"%d" % i, partition=2) for i in range(5)])
    time.sleep(0.05)
    moment = int(time.time() * 1000)
    time.sleep(0.05)
    publish(bus, [Outgoing(bus_kit.source, b"k", b"%d" % i, partition=2) for i in range(5, 8)])
    place = TopicPartition(bus_kit.source, 2)
    offsets = [r.offset for r in read(bus, bus_kit.source, 8)]

    def run(slot: int, count: int) -> list[int]:
        numbers: list[int] = []
        with member_of(bus, bus_kit, slot, sinks=sinks) as consumer:
            while len(numbers) < count:
                batch = poll(consumer)
                if sinks:
                    consumer.sink(batch, partial(insert_effects, records=batch.records), {place: "kept"})
                else:
                    consumer.transform(batch, [], {place: "kept"})
                numbers += [int(r.value) for r in batch.records]
            assert consumer.owned()[place] == "kept"
        return numbers

    assert run(0, 8) == list(range(8))
    bus.seek(bus_kit.group, {place: offsets[3]})
    assert bus.committed(bus_kit.group, bus_kit.source)[place] == offsets[3]
    assert run(0, 5) == [3, 4, 5, 6, 7]
    bus.seek(bus_kit.group, bus.offsets_at(bus_kit.source, moment))
    assert run(1, 3) == [5, 6, 7]
    bus.seek(bus_kit.group, bus.begins(bus_kit.source))
    assert run(2, 8) == list(range(8))
    if sinks:
        assert len(effects(bus_kit)) == 24


@pytest.mark.parametrize("sinks", [False, True], ids=["transform", "sink"])
def test_a_group_that_never_ran_starts_where_it_was_put(bus_kit: Any, sinks: bool) -> None:
    bus = bus_kit.bus()
    placed = publish(bus, [Outgoing(bus_kit.source, b"k", b"%d" % i, partition=2) for i in range(6)])
    bus.seek(bus_kit.group, {placed[4][0]: placed[4][1]})
    with member_of(bus, bus_kit, sinks=sinks) as consumer:
        assert [r.value for r in poll(consumer).records] == [b"4", b"5"]


def test_a_live_member_and_a_replay_never_both_count(bus_kit: Any) -> None:
    """Either the seek is refused, or what the member holds is: its batch has no effect."""
    bus = bus_kit.bus()
    publish(bus, [Outgoing(bus_kit.source, b"k", b"%d" % i, partition=2) for i in range(6)])
    place = TopicPartition(bus_kit.source, 2)
    with member_of(bus, bus_kit) as consumer:
        consume(consumer, 6)
        publish(bus, [Outgoing(bus_kit.source, b"k", b"6", partition=2)])
        batch = poll(consumer)
        try:
            bus.seek(bus_kit.group, {place: 0})
        except Transient:
            consumer.transform(batch, [Outgoing(bus_kit.out, b"k", b"once")])
            assert len(read(bus, bus_kit.out, 1)) == 1
        else:
            with pytest.raises(Fenced):
                consumer.transform(batch, [Outgoing(bus_kit.out, b"k", b"never")])
            assert read(bus, bus_kit.out, 0) == []
            consumer.rewind(batch)
            assert [r.value for r in consume(consumer, 7)] == [b"%d" % i for i in range(7)]


def test_a_batch_commits_once(bus_kit: Any) -> None:
    """Committed again, by mistake, it is refused."""
    bus = bus_kit.bus()
    publish(bus, events(bus_kit.source, range(6)))
    with member_of(bus, bus_kit) as consumer:
        batch = poll(consumer)
        consumer.transform(batch, [Outgoing(bus_kit.out, b"k", b"0")])
        with pytest.raises(Fenced):
            consumer.transform(batch, [Outgoing(bus_kit.out, b"k", b"1")])
        assert [r.value for r in read(bus, bus_kit.out, 1)] == [b"0"]
