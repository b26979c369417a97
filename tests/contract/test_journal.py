"""A producer whose place is stored with what it publishes (the cursor of a file being ingested)."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from kit import SEED, events, once_in_order, pairs, publish, read

from services.stream.bus import Outgoing
from services.stream.errors import Fenced, Rejected
from services.stream.topics import MAX_EVENT_BYTES


def test_the_mark_is_stored_with_the_events(bus_kit: Any) -> None:
    bus = bus_kit.bus()
    journal = bus.journal("file", bus_kit.out)
    assert journal.mark == ""
    journal.publish(events(bus_kit.out, range(5)), "line 5")
    assert journal.mark == "line 5"
    journal.publish([], "line 6, a blank one")
    journal.close()
    again = bus_kit.bus().journal("file", bus_kit.out)
    assert again.mark == "line 6, a blank one"
    again.publish(events(bus_kit.out, range(5, 8)), "line 9")
    again.close()
    once_in_order(pairs(read(bus, bus_kit.out, 8)), 8)
    other = bus.journal("another", bus_kit.out)
    assert other.mark == ""
    other.close()


def test_a_refused_publish_moves_nothing(bus_kit: Any) -> None:
    bus = bus_kit.bus()
    journal = bus.journal("file", bus_kit.out)
    journal.publish(events(bus_kit.out, range(2)), "2")
    with pytest.raises(Rejected):
        journal.publish([*events(bus_kit.out, [2]), Outgoing(bus_kit.out, b"k", b"x" * (MAX_EVENT_BYTES + 1))], "4")
    assert journal.mark == "2"
    journal.publish(events(bus_kit.out, [2]), "3")
    journal.close()
    assert bus.journal("file", bus_kit.out).mark == "3"
    once_in_order(pairs(read(bus, bus_kit.out, 3)), 3)


def test_a_second_opener_fences_the_first(bus_kit: Any) -> None:
    bus = bus_kit.bus()
    first = bus.journal("file", bus_kit.out)
    first.publish(events(bus_kit.out, range(3)), "3")
    second = bus_kit.bus().journal("file", bus_kit.out)
    assert second.mark == "3"
    with pytest.raises(Fenced):
        first.publish(events(bus_kit.out, range(3, 6)), "never")
    second.publish(events(bus_kit.out, range(3, 6)), "6")
    with pytest.raises(Fenced):
        first.publish(events(bus_kit.out, range(6, 9)), "never")
    assert bus_kit.bus().journal("file", bus_kit.out).mark == "6"
    once_in_order(pairs(read(bus, bus_kit.out, 6)), 6)
    first.close()
    second.close()


def test_killed_between_and_inside_publishes_it_neither_loses_nor_doubles(bus_kit: Any) -> None:
    chance = random.Random(SEED)
    bus = bus_kit.bus()
    for _ in range(6):
        writer = bus_kit.member(role="journal", upto=100_000, size=2)
        writer.wait_for("published")
        time.sleep(chance.uniform(0.0, 0.4))
        writer.kill()
        publish(bus, [Outgoing(bus_kit.source, b"k", b"others publish beside it")])
    reached = int(writer.reports("published")[-1]["mark"])
    last = bus_kit.member(role="journal", upto=reached + 10, size=2)
    assert last.process.wait(60) == 0
    once_in_order(pairs(read(bus, bus_kit.out, reached + 10)), reached + 10)
