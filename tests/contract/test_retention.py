"""What retention takes is gone with a typed error, never silently skipped."""

from __future__ import annotations

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
)

from services.stream.bus import Record
from services.stream.errors import Truncated


def cut_behind(kit: Any) -> Any:
    """A bus whose topic `short` has lost its first 40 events and holds 20 more."""
    bus = kit.bus()
    publish(bus, events(kit.short, range(40)))
    kit.forget_old(bus, kit.short)
    publish(bus, [e._replace(value=b"%d" % (int(e.value) - 40)) for e in events(kit.short, range(40, 60))])
    return bus


def test_the_beginning_moves_and_offsets_go_on(bus_kit: Any) -> None:
    bus = bus_kit.bus()
    publish(bus, events(bus_kit.source, range(40)))  # kept for ever
    publish(bus, events(bus_kit.short, range(40)))
    ends = bus.ends(bus_kit.short)
    bus_kit.forget_old(bus, bus_kit.short)
    assert bus.begins(bus_kit.short) == bus.ends(bus_kit.short) == ends
    placed = publish(bus, events(bus_kit.short, range(40)))
    for place, first in ends.items():
        assert min(offset for p, offset in placed if p == place) == first
    once_in_order(pairs(read(bus, bus_kit.short, 40)), 40)
    assert set(bus.begins(bus_kit.source).values()) == {0}
    once_in_order(pairs(read(bus, bus_kit.source, 40)), 40)
    assert bus.offsets_at(bus_kit.short, 0) == bus.begins(bus_kit.short)


def test_a_reader_behind_the_cut_is_told(bus_kit: Any) -> None:
    bus = bus_kit.bus()
    publish(bus, events(bus_kit.short, range(40)))
    slow = bus.reader([bus_kit.short])
    seen = list(slow.poll(30, max_records=3))
    assert seen
    bus_kit.forget_old(bus, bus_kit.short)
    publish(bus, events(bus_kit.short, range(40, 80)))
    try:
        while len(seen) < 80 and (more := slow.poll(10)):
            seen += more
        once_in_order(pairs(seen), 80)  # its client had fetched ahead: nothing was skipped
        assert bus_kit.name == "kafka"
    except Truncated:
        assert len(seen) < 80
    slow.close()
    late = bus.reader([bus_kit.short], dict.fromkeys(bus.begins(bus_kit.short), 0))
    with pytest.raises(Truncated):
        for _ in range(60):
            late.poll(0.5)
    late.close()
    fresh = bus.reader([bus_kit.short])
    assert fresh.poll(30)
    fresh.close()


@pytest.mark.parametrize("sinks", [False, True], ids=["transform", "sink"])
def test_a_group_behind_the_cut_stops_and_says_how_to_go_on(bus_kit: Any, sinks: bool) -> None:
    bus = bus_kit.bus()
    publish(bus, events(bus_kit.short, range(40)))
    with member_of(bus, bus_kit, topics=[bus_kit.short], sinks=sinks, max_records=3) as consumer:
        while set(bus.committed(bus_kit.group, bus_kit.short)) != set(bus.begins(bus_kit.short)):
            consumer.transform(poll(consumer), [])
    bus_kit.forget_old(bus, bus_kit.short)
    publish(bus, events(bus_kit.short, range(20)))
    with (
        member_of(bus, bus_kit, slot=1, topics=[bus_kit.short], sinks=sinks) as consumer,
        pytest.raises(Truncated, match="tickerloop replay"),
    ):
        for _ in range(60):
            consumer.poll(0.5)
    bus.seek(bus_kit.group, bus.begins(bus_kit.short))
    with member_of(bus, bus_kit, slot=1, topics=[bus_kit.short], sinks=sinks) as consumer:
        once_in_order(pairs(consume(consumer, 20)), 20)


@pytest.mark.parametrize("sinks", [False, True], ids=["transform", "sink"])
def test_a_first_start_begins_at_what_is_kept(bus_kit: Any, sinks: bool) -> None:
    """It has missed nothing that it could have had: no error."""
    bus = cut_behind(bus_kit)
    with member_of(bus, bus_kit, topics=[bus_kit.short], sinks=sinks) as consumer:
        once_in_order(pairs(consume(consumer, 20)), 20)


def test_the_batch_in_hand_may_still_be_committed(bus_kit: Any) -> None:
    bus = bus_kit.bus()
    make_effects(bus_kit)
    publish(bus, events(bus_kit.short, range(40)))
    with member_of(bus, bus_kit, topics=[bus_kit.short], sinks=True, max_records=1_000) as consumer:
        taken: list[Record] = []
        while len(taken) < 40:
            batch = poll(consumer)
            taken += batch.records
            if len(taken) == 40:
                bus_kit.forget_old(bus, bus_kit.short)
            consumer.sink(batch, partial(insert_effects, records=batch.records))
        assert effects(bus_kit) == pairs(taken)
        publish(bus, events(bus_kit.short, range(40, 50)))
        assert len(consume(consumer, 10)) == 10
