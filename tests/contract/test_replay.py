"""Dead letters are read to the end of their topic, and sent again at most once, whatever reasons are asked for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from kit import publish, read

from services.deadletters import check_reads, letters, replay
from services.settings import Settings
from services.stream.bus import Record, TopicPartition, read_to_end
from services.stream.errors import Misconfigured, Rejected, Transient
from services.stream.loop import dead_letter
from services.stream.topics import MAX_DEAD_BYTES, MENTIONS, dead

PLACE = TopicPartition("t", 0)


class Slow:
    """A reader of `records` whose log answers every third poll only; it skips the offset of an end mark after each."""

    def __init__(self, count: int) -> None:
        self._count, self._polls, self._position = count, 0, 0

    def poll(self, timeout: float, max_records: int = 500) -> Sequence[Record]:
        del timeout, max_records
        self._polls += 1
        if self._polls % 3 or self._position >= 2 * self._count:
            return []
        self._position += 2
        return [Record("t", 0, self._position - 2, 0, b"", b"")]

    def positions(self) -> Mapping[TopicPartition, int]:
        return {PLACE: self._position}

    def close(self) -> None: ...


def test_polls_that_give_nothing_are_not_the_end() -> None:
    assert [record.offset for record in read_to_end(Slow(5), {PLACE: 10})] == [0, 2, 4, 6, 8]


def test_a_log_that_gives_no_more_is_not_the_end() -> None:
    found: list[Record] = []
    with pytest.raises(Transient, match="short of the end"):
        found.extend(read_to_end(Slow(5), {PLACE: 11}, stall_s=0.01))


def test_where_the_monitor_stands_on_kafka_is_not_the_logs_to_move() -> None:
    check_reads(Settings(database="postgresql://h/d"), "monitor", MENTIONS)
    with pytest.raises(Misconfigured, match="nothing to move"):
        check_reads(Settings(database="postgresql://h/d", bus="kafka://h:1"), "monitor", MENTIONS)


def dead_letters(kit: Any, reasons: str, first: int = 0) -> None:
    """One letter per character, its reason that character, its value a number."""
    numbered = enumerate(reasons, first)
    records = [(r, Record(kit.source, 0, n, 0, b"k%d" % n, b"%d" % n, (("h", b"v"),))) for n, r in numbered]
    publish(kit.bus(), [dead_letter(record, Rejected(r, "why"), "group") for r, record in records])


def replayed(kit: Any, reason: str | None = None, again: bool = False) -> list[int]:
    """What a replay sends."""
    bus = kit.bus()
    before = len(read(bus, kit.source, 0))
    count = replay(bus, dead(kit.source), reason, again)
    sent = read(bus, kit.source, before + count)
    assert len(sent) == before + count
    assert all(record.headers == (("h", b"v"),) for record in sent)
    new = sorted(sent, key=lambda record: record.timestamp)[before:]
    return sorted(int(record.value) for record in new)


def test_a_letter_is_sent_once_by_its_reason_or_with_all(bus_kit: Any) -> None:
    dead_letters(bus_kit, "aabbc")
    assert len(list(letters(bus_kit.bus(), dead(bus_kit.source)))) == 5
    assert replayed(bus_kit, "a") == [0, 1]
    assert replayed(bus_kit, "a") == []
    assert replayed(bus_kit) == [2, 3, 4]
    assert replayed(bus_kit, "b") == []
    dead_letters(bus_kit, "ab", first=5)
    assert replayed(bus_kit, "b") == [6]
    assert replayed(bus_kit) == [5]
    assert replayed(bus_kit, "a", again=True) == [0, 1, 5]
    assert replayed(bus_kit) == []


def test_a_cut_letter_stays_where_it_is(bus_kit: Any, caplog: pytest.LogCaptureFixture) -> None:
    own = (("cut", b"the event's own"),)
    largest = Record(bus_kit.source, 0, 0, 0, b"k", b"x" * MAX_DEAD_BYTES)
    events = [Record(bus_kit.source, 0, 1, 0, b"k", b"1", own), largest]
    bus = bus_kit.bus()
    publish(bus, [dead_letter(record, Rejected("bad"), "group") for record in events])
    with caplog.at_level(logging.WARNING):
        assert replay(bus, dead(bus_kit.source)) == 1
    assert [record.value for record in read(bus, bus_kit.source, 1)] == [b"1"]
    assert "1 letters" in caplog.text
