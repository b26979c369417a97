"""The loop: rejected, broken and unlucky records; the limit of failures; nothing oversize leaves."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from kit import effects, insert_effects, make_effects, once_in_order, pairs, publish, read, retried, until

from services.stream import loop as loop_module
from services.stream.bus import Outgoing, Record, TopicPartition, check_size
from services.stream.database import connector
from services.stream.errors import Fatal, Rejected, Transient, Tripped
from services.stream.loop import Hooks, Loop, dead_letter
from services.stream.topics import MAX_DEAD_BYTES, MAX_EVENT_BYTES, dead
from services.stream.trips import RATIO_LIMIT, RUN_LIMIT, Trips


class Running:
    """A loop in a thread. `failure` is what ended it."""

    def __init__(self, kit: Any, run: Callable[[Loop], None], **options: Any) -> None:
        self.stop = threading.Event()
        self.failure: BaseException | None = None
        trips = Trips(connector(kit.url, "trips"), kit.group)
        self._loop = Loop(kit.bus(), kit.group, [kit.source], self.stop, trips, **options)
        self._thread = threading.Thread(target=self._run, args=(run,))
        self._thread.start()

    def _run(self, run: Callable[[Loop], None]) -> None:
        try:
            run(self._loop)
        except BaseException as error:
            self.failure = error

    def ended(self) -> BaseException | None:
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.failure


@contextlib.contextmanager
def running(kit: Any, run: Callable[[Loop], None], **options: Any) -> Iterator[Running]:
    logging.getLogger("services.stream.loop").setLevel(logging.CRITICAL)
    loop = Running(kit, run, **options)
    try:
        yield loop
    finally:
        loop.stop.set()
        loop.ended()
        logging.getLogger("services.stream.loop").setLevel(logging.NOTSET)


def numbered(kit: Any, count: int, partition: int | None = None) -> list[Outgoing]:
    return [
        Outgoing(kit.source, b"k%d" % (n % 8), b"%d" % n, (("trace", b"t%d" % n),), partition) for n in range(count)
    ]


def copied(kit: Any, record: Record) -> list[Outgoing]:
    return [Outgoing(kit.out, record.key, record.value)]


def check_split(kit: Any, count: int, bad: set[int], reason: str) -> list[Record]:
    """The bad ones are dead letters as they came, with their origin; the others were passed on once each."""
    bus = kit.bus()
    good = [n for n in range(count) if n not in bad]
    letters = read(bus, dead(kit.source), len(bad))
    passed = pairs(read(bus, kit.out, len(good)))
    assert sorted(n for _, n in passed) == good
    once_in_order([(key, good.index(n)) for key, n in passed], len(good))
    assert Counter(int(r.value) for r in letters) == Counter(bad)
    sources = {(r.partition, r.offset): r for r in read(bus, kit.source, count)}
    for letter in letters:
        headers = dict(letter.headers)
        assert headers["reason"].decode() == reason
        assert headers["group"].decode() == kit.group
        topic, partition, offset = json.loads(headers["origin"])
        assert topic == kit.source
        source = sources[partition, offset]
        assert (letter.key, letter.value) == (source.key, source.value)
        assert letter.headers[: len(source.headers)] == source.headers
    return letters


def test_a_step_rejects_some(bus_kit: Any) -> None:
    publish(bus_kit.bus(), numbered(bus_kit, 60))

    def step(records: Sequence[Record]) -> list[Any]:
        return [Rejected("language", "klingon") if int(r.value) % 7 == 0 else copied(bus_kit, r) for r in records]

    with running(bus_kit, lambda loop: loop.transform(step)):
        letters = check_split(bus_kit, 60, set(range(0, 60, 7)), "language")
    assert all(dict(letter.headers)["detail"] == b"klingon" for letter in letters)


@pytest.mark.parametrize("error", [Rejected("bad", "why"), ZeroDivisionError("by nought")], ids=["rejects", "breaks"])
def test_halving_finds_the_records_that_break_a_batch(bus_kit: Any, error: Exception) -> None:
    publish(bus_kit.bus(), numbered(bus_kit, 60))
    bad = {3, 4, 31, 59}

    def step(records: Sequence[Record]) -> list[Any]:
        if any(int(r.value) in bad for r in records):
            raise error
        return [copied(bus_kit, r) for r in records]

    with running(bus_kit, lambda loop: loop.transform(step)):
        letters = check_split(bus_kit, 60, bad, "bad" if isinstance(error, Rejected) else "failed")
    detail = "why" if isinstance(error, Rejected) else "ZeroDivisionError: by nought"
    assert {dict(letter.headers)["detail"].decode() for letter in letters} == {detail}


@pytest.mark.parametrize("how", ["python", "sql", "rejects"])
def test_a_sink_keeps_the_survivors_rows_and_none_of_the_broken(bus_kit: Any, how: str) -> None:
    """Each failing half had written rows: they are rolled back, though the transaction goes on."""
    make_effects(bus_kit)
    publish(bus_kit.bus(), numbered(bus_kit, 60))
    bad = {0, 17, 18, 44}

    def step(records: Sequence[Record], cursor: Any) -> list[Any]:
        insert_effects(cursor, records)
        if any(int(r.value) in bad for r in records):
            if how == "sql":
                cursor.execute("SELECT 1 / 0")
            raise Rejected("failed") if how == "rejects" else ZeroDivisionError
        return [copied(bus_kit, r) for r in records]

    with bus_kit.relay(), running(bus_kit, lambda loop: loop.sink(step)):
        check_split(bus_kit, 60, bad, "failed")
        assert sorted(n for _, n in effects(bus_kit)) == [n for n in range(60) if n not in bad]


def test_output_above_the_maximum_is_a_rejection_of_its_source(bus_kit: Any) -> None:
    """Decided before producing: the others of the batch go through, and so does the service."""
    make_effects(bus_kit)
    publish(bus_kit.bus(), numbered(bus_kit, 40))
    bad = {5, 21}

    def step(records: Sequence[Record], cursor: Any = None) -> list[Any]:
        if cursor is not None:
            insert_effects(cursor, records)
        return [
            [Outgoing(bus_kit.out, r.key, r.value + b" " * (MAX_EVENT_BYTES if int(r.value) in bad else 0))]
            for r in records
        ]

    with running(bus_kit, lambda loop: loop.transform(step)):
        check_split(bus_kit, 40, bad, "oversize")
    bus_kit.group += "2"
    with bus_kit.relay(), running(bus_kit, lambda loop: loop.sink(step)):
        until(lambda: len(effects(bus_kit)) >= 38, "the rows")
        assert len(read(bus_kit.bus(), dead(bus_kit.source), 4)) == 4
    assert sorted(n for _, n in effects(bus_kit)) == [n for n in range(40) if n not in bad]


def test_the_largest_event_can_be_rejected(bus_kit: Any) -> None:
    largest = Outgoing(bus_kit.source, b"k", b"x" * (MAX_EVENT_BYTES - 10), (("h", b"123456789"),))
    publish(bus_kit.bus(), [largest])
    with running(bus_kit, lambda loop: loop.transform(lambda records: [Rejected("bad", "é" * 9_000) for _ in records])):
        (letter,) = read(bus_kit.bus(), dead(bus_kit.source), 1)
    assert letter.value == largest.value
    assert letter.headers[0] == largest.headers[0]
    assert dict(letter.headers)["reason"] == b"bad"


def test_a_transient_failure_is_tried_again_and_kills_no_letter(bus_kit: Any) -> None:
    make_effects(bus_kit)
    publish(bus_kit.bus(), numbered(bus_kit, 40))
    tries = Counter[str]()

    def step(records: Sequence[Record], cursor: Any = None) -> list[Any]:
        if cursor is not None:
            insert_effects(cursor, records)
        kind = "sink" if cursor is not None else "transform"
        tries[kind] += 1
        if tries[kind] < 4:
            raise Transient("not yet")
        return [copied(bus_kit, r) for r in records]

    with running(bus_kit, lambda loop: loop.transform(step)):
        once_in_order(pairs(read(bus_kit.bus(), bus_kit.out, 40)), 40)
    bus_kit.group += "2"
    with bus_kit.relay(), running(bus_kit, lambda loop: loop.sink(step)):
        until(lambda: len(effects(bus_kit)) >= 40, "the rows")
    once_in_order(effects(bus_kit), 40)
    assert read(bus_kit.bus(), dead(bus_kit.source), 0) == []


def test_too_few_answers_are_fatal(bus_kit: Any) -> None:
    bus = bus_kit.bus()
    publish(bus, numbered(bus_kit, 10))
    with running(bus_kit, lambda loop: loop.transform(lambda records: [[] for _ in records][1:])) as loop:
        assert isinstance(loop.ended(), Fatal)
    assert sum(bus.committed(bus_kit.group, bus_kit.source).values()) == 0


def test_past_the_limit_of_failures_the_service_stops_and_stays_stopped(bus_kit: Any) -> None:
    """Nothing of the batch is committed; what it would have thrown away is all there when the defect is mended."""
    bus = bus_kit.bus()
    publish(bus, numbered(bus_kit, 100, partition=1))

    def defect(records: Sequence[Record]) -> Sequence[Any]:
        if any(int(r.value) >= 30 for r in records):
            raise KeyError("a defect of ours")
        return [copied(bus_kit, r) for r in records]

    with running(bus_kit, lambda loop: loop.transform(defect), max_records=1_000) as loop:
        assert isinstance(loop.ended(), Tripped)
        assert "dlq resume" in str(loop.failure)
    letters = len(read(bus, dead(bus_kit.source), 0))
    assert letters < RUN_LIMIT
    with running(bus_kit, lambda loop: loop.transform(lambda records: [[] for _ in records])) as loop:
        assert isinstance(loop.ended(), Tripped), "a restart clears it"
    with contextlib.closing(bus_kit.connect()) as connection, connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM trip WHERE grp = %s", (bus_kit.group,))
    before = len(read(bus, bus_kit.out, 0))
    with running(bus_kit, lambda loop: loop.transform(lambda records: [copied(bus_kit, r) for r in records])):
        retried(lambda: read(bus, bus_kit.out, 100 - letters))
    passed = [n for _, n in pairs(read(bus, bus_kit.out, 100 - letters))]
    assert len(passed) == len(set(passed)) == 100 - letters
    assert before + letters <= 100


def test_rejections_do_not_trip(bus_kit: Any) -> None:
    """A stranger's bad records must not stop us."""
    publish(bus_kit.bus(), numbered(bus_kit, 100, partition=1))
    with running(bus_kit, lambda loop: loop.transform(lambda records: [Rejected("bad") for _ in records])):
        check_split(bus_kit, 100, set(range(100)), "bad")


def test_a_failure_counts_once_however_often_its_batch_is_redone(bus_kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "BACKOFF_LAST_S", 0.02)
    publish(bus_kit.bus(), numbered(bus_kit, 2, partition=1))
    tries = Counter[str]()

    def marks(_: Any) -> dict[TopicPartition, str]:
        tries["commits"] += 1
        if tries["commits"] <= RUN_LIMIT + 5:
            raise Transient("the commit failed")
        return {}

    def broken(records: Sequence[Record]) -> list[Any]:
        return [1 // 0 for _ in records]

    with running(bus_kit, lambda loop: loop.transform(broken), hooks=Hooks(marks=marks)):
        check_split(bus_kit, 2, {0, 1}, "failed")


def test_a_dead_letter_always_fits() -> None:
    """A stranger's record may be larger than what we take; what is cut off is said."""
    record = Record("texts.raw", 0, 7, 0, b"k", b"x" * (2 * MAX_DEAD_BYTES), (("h", b"y" * 1000),) * 40)
    letter = dead_letter(record, Rejected("oversize"), "group")
    check_size(letter, MAX_DEAD_BYTES)
    assert len(letter.value) > MAX_DEAD_BYTES - 50_000
    assert dict(letter.headers)["cut"] == b"%d" % len(record.value)


@pytest.mark.parametrize("sinks", [False, True], ids=["transform", "sink"])
def test_a_letter_that_cannot_be_published_is_fatal(bus_kit: Any, sinks: bool) -> None:
    """The topic `short` has no `.dead`: nothing is committed, so that nothing is lost."""
    bus = bus_kit.bus()
    publish(bus, [Outgoing(bus_kit.short, b"k", b"1")])
    trips = Trips(connector(bus_kit.url, "trips"), bus_kit.group)
    loop = Loop(bus_kit.bus(), bus_kit.group, [bus_kit.short], threading.Event(), trips)
    with pytest.raises(Fatal, match=dead(bus_kit.short)):
        if sinks:
            loop.sink(lambda records, _: [Rejected("bad") for _ in records])
        else:
            loop.transform(lambda records: [Rejected("bad") for _ in records])
    assert sum(bus.committed(bus_kit.group, bus_kit.short).values()) == 0


def counted(url: str, every: int) -> None:
    """1,000 records of one partition; each `every`-th fails."""
    trips = Trips(connector(url, "trips"), f"every {every}")
    for offset in range(1_000):
        record = Record("t", 0, offset, 0, b"", b"")
        if offset % every:
            trips.passed([record])
        else:
            trips.failed(record)


def test_a_tenth_of_failures_is_the_limit_though_none_follow_each_other(database: str) -> None:
    counted(database, every=int(1 / RATIO_LIMIT) + 1)
    with pytest.raises(Tripped, match="11% of the last 50"):
        counted(database, every=int(1 / RATIO_LIMIT) - 1)
