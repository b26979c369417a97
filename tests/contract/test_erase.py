"""Erasing records: at once on the embedded log, with their offsets kept; on Kafka by retention alone."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from kit import consume, events, member_of, poll, publish, read

from services.stream import chunks
from services.stream.bus import Outgoing, Record, TopicPartition
from services.stream.chunks import emptied, pack, unpack
from services.stream.events import ERASED

NEEDLE = b"needle"


def held(kit: Any) -> bool:
    """Whether any chunk of the embedded log holds the needle."""
    return bool(kit.rows("SELECT 1 FROM log.chunk WHERE position('needle'::bytea IN payload) > 0"))


def whole(kit: Any, numbers: range) -> list[Outgoing]:
    headers = (("detail", NEEDLE), ("reason", b"bad"))
    return [event._replace(value=NEEDLE + event.value, headers=headers) for event in events(kit.source, numbers)]


def same_place(one: Record, other: Record) -> bool:
    return one[:4] == other[:4] and one.key == other.key


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "MAX_CHUNK_EVENTS", 3)


@pytest.mark.usefixtures("small_chunks")
def test_what_is_erased_keeps_its_place_and_loses_its_value(bus_kit: Any) -> None:
    bus = bus_kit.bus()
    publish(bus, events(bus_kit.source, range(40)))
    publish(bus, whole(bus_kit, range(40, 60)))
    before, ends = read(bus, bus_kit.source, 60), bus.ends(bus_kit.source)
    wanted = [record for record in before if record.value.startswith(NEEDLE)]
    erased = bus.erase(wanted)
    after = read(bus, bus_kit.source, 60)
    assert all(map(same_place, before, after)) and bus.ends(bus_kit.source) == ends
    if bus_kit.name == "kafka":  # a broker deletes no record of a partition's middle: its retention does
        assert erased == 0 and after == before
        return
    assert erased == len(wanted) == 20 and bus.erase(wanted) == 0, "once"
    assert not held(bus_kit)
    gone = [record for record in after if record.value == ERASED]
    assert len(gone) == 20 and all(record.headers == (("reason", b"bad"),) for record in gone)
    assert [r for r in after if r.value != ERASED] == [r for r in before if not r.value.startswith(NEEDLE)]
    ((sizes,),) = bus_kit.rows("SELECT bool_and(size = octet_length(payload)) FROM log.chunk")
    assert sizes


@pytest.mark.usefixtures("small_chunks")
def test_a_group_goes_on_over_what_was_erased(bus_kit: Any) -> None:
    bus = bus_kit.bus()
    publish(bus, whole(bus_kit, range(40)))
    records = read(bus, bus_kit.source, 40)
    with member_of(bus, bus_kit, max_records=7) as consumer:
        consumer.transform(poll(consumer), [])
        batch = poll(consumer)
        bus.erase(records)  # some were committed, some are in hand, the rest is to be read
        consumer.transform(batch, [])
        taken = [*batch.records, *consume(consumer, 26)]
    places = [record[:3] for record in taken]
    assert len(places) == len(set(places)) == 33
    publish(bus, events(bus_kit.source, range(5)))
    with member_of(bus, bus_kit, slot=1) as consumer:
        assert len(consume(consumer, 5)) == 5


def test_what_retention_has_taken_meanwhile_is_no_error(bus_kit: Any) -> None:
    bus = bus_kit.bus()
    publish(bus, events(bus_kit.short, range(40)))
    records = read(bus, bus_kit.short, 40)
    bus_kit.forget_old(bus, bus_kit.short)
    publish(bus, events(bus_kit.short, range(5)))
    assert bus.erase(records) == 0
    with contextlib.closing(bus.reader([bus_kit.short])) as reader:
        assert all(record.value != ERASED for record in reader.poll(10))


def test_only_the_records_named_are_emptied() -> None:
    place = TopicPartition("t", 0)
    (chunk,) = pack([Outgoing("t", b"k", b"%d" % n, (("x", b"y"),)) for n in range(5)], [place] * 5)
    payload, count = emptied(chunk.payload, 100, [101, 103])
    records = unpack(place, 100, 7, payload, 100)
    assert count == 2
    assert [record.value for record in records] == [b"0", ERASED, b"2", ERASED, b"4"]
    assert [record.headers for record in records] == [(("x", b"y"),), (), (("x", b"y"),), (), (("x", b"y"),)]
    assert emptied(payload, 100, [101]) == (payload, 0)
