"""What the Faust agent does with its batches, without Faust: nothing lost, nothing twice, whatever fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from monitor_kit import BASE, PARTITIONS, fail_on, mend, mention, outgoing, query, rows

from services.monitor.counter import Counter
from services.monitor.faust_transport import Delivery
from services.monitor.windows import Rules
from services.runtime import Context
from services.settings import Settings
from services.stream.bus import Record
from services.stream.errors import Fatal, Transient, Tripped
from services.stream.topics import MENTIONS, dead


@pytest.fixture
def context(database: str, tmp_path: Path) -> Context:
    settings = Settings(database=database, data=str(tmp_path), partitions=PARTITIONS)
    settings.open_bus("test").create_topics()
    return Context(settings, "monitor")


@pytest.fixture
def counter(context: Context) -> Iterator[Counter]:
    with closing(Counter(context, Rules(), "log")) as counter:
        counter.starts({0: -1})
        yield counter


def deliveries(tickers: str, first: int = 0, after: int | None = None) -> Sequence[Delivery]:
    """One record per letter, at every second offset, each following the one before it."""
    offsets = [first + 2 * i for i in range(len(tickers))]
    before = [first - 1 if after is None else after, *offsets[:-1]]
    return [
        Delivery(Record(MENTIONS, 0, offset, 2 * BASE, *outgoing(mention(ticker, BASE))[1:3]), previous)
        for ticker, offset, previous in zip(tickers, offsets, before, strict=True)
    ]


def counts(context: Context) -> dict[str, int]:
    return {ticker: row[0] for (ticker, _), row in rows(context.settings.database).windows.items()}


def letters(context: Context) -> list[bytes]:
    with closing(context.bus()) as bus:
        return [letter.key for letter in bus.reader([dead(MENTIONS)]).poll(2)]


def test_what_comes_again_is_passed_over(context: Context, counter: Counter) -> None:
    counter.count(deliveries("ABC"))
    counter.count(deliveries("ABCD"))
    counter.count(deliveries("CDE", first=4, after=2))
    assert counts(context) == dict.fromkeys("ABCDE", 1)


def test_a_lost_record_is_fatal_and_nothing_behind_it_counts(context: Context, counter: Counter) -> None:
    counter.count(deliveries("AB"))
    with pytest.raises(Fatal, match="lost records between 2 and 6"):
        counter.count(deliveries("D", first=6, after=4))
    with pytest.raises(Fatal):
        counter.count([*deliveries("C", first=4, after=2), *deliveries("E", first=8, after=6)])
    assert counts(context) == {"A": 1, "B": 1}
    assert counter.seen([0]) == {0: 2}


def test_a_gap_in_the_log_is_none_on_the_way(context: Context, counter: Counter) -> None:
    counter.starts({0: 40})
    counter.count(deliveries("A", first=90, after=40))
    assert counts(context) == {"A": 1}


def test_the_record_that_breaks_the_step_goes_alone(context: Context, counter: Counter) -> None:
    fail_on(context.settings.database, "X", "P0001")
    counter.count(deliveries("ABXCD"))
    assert counts(context) == dict.fromkeys("ABCD", 1)
    assert letters(context) == [b"X"]
    mend(context.settings.database)
    counter.count(deliveries("ABXCD"))
    assert counts(context) == dict.fromkeys("ABCD", 1)
    assert letters(context) == [b"X"]


def test_a_trip_loses_nothing(context: Context, counter: Counter) -> None:
    fail_on(context.settings.database, "X", "P0001")
    batch = deliveries("A" + "X" * 30 + "B")
    with pytest.raises(Tripped):
        counter.count(batch)
    with pytest.raises(Tripped):
        Counter(context, Rules(), "log")
    mend(context.settings.database)
    query(context.settings.database, "DELETE FROM trip")
    counter.count(batch)
    assert sum(counts(context).values()) + len(letters(context)) == len(batch)
    assert counts(context)["B"] == 1


def test_it_waits_for_what_is_away(context: Context, counter: Counter) -> None:
    fail_on(context.settings.database, "X", "40001")
    counting = threading.Thread(target=counter.count, args=(deliveries("AXB"),))
    counting.start()
    counting.join(1)
    assert counting.is_alive()
    assert counts(context) == {}
    mend(context.settings.database)
    counting.join(30)
    assert counts(context) == dict.fromkeys("AXB", 1)


def test_it_gives_up_waiting_when_told_to_stop(context: Context, counter: Counter) -> None:
    fail_on(context.settings.database, "X", "40001")
    context.stop.set()
    with pytest.raises(Transient):
        counter.count(deliveries("AX"))
    assert counts(context) == {}
