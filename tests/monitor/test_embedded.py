"""The window module in the consumer loop, on the embedded log."""

from __future__ import annotations

from pathlib import Path

import pytest
from monitor_kit import (
    BASE,
    PARTITIONS,
    count_all,
    count_with_kills,
    expected,
    made,
    mention,
    outgoing,
    query,
    rows,
    until,
    working,
)

from services.settings import Settings
from services.status import lag
from services.stream.bus import Outgoing
from services.stream.postgres import PostgresBus
from services.stream.topics import MENTIONS, dead


@pytest.fixture
def settings(database: str, tmp_path: Path) -> Settings:
    settings = Settings(database=database, data=str(tmp_path / "var"), partitions=PARTITIONS)
    settings.open_bus("test").create_topics()
    return settings


@pytest.fixture
def bus(settings: Settings) -> PostgresBus:
    return PostgresBus(settings.connector("test"), PARTITIONS)


def test_kills_change_nothing(settings: Settings, bus: PostgresBus) -> None:
    events = made(12_000)
    for start in range(0, len(events), 500):
        bus.publish([outgoing(event) for event in events[start : start + 500]])
    result = count_with_kills(settings, events, kills=3)
    assert result == expected(events)
    assert result.late
    assert {row[5] for row in result.windows.values()} == {True, False}


def test_a_replay_counts_nothing_again(settings: Settings, bus: PostgresBus) -> None:
    events = made(2_000)
    bus.publish([outgoing(event) for event in events])
    first = count_all(settings, events)
    bus.seek("monitor", bus.begins(MENTIONS))
    last = mention("T1", events[-1].event_time)
    bus.publish([outgoing(last)])
    assert count_all(settings, [*events, last]) == expected([*events, last])
    assert first == expected(events)


def test_bad_records_go_to_the_dead_letters(settings: Settings, bus: PostgresBus) -> None:
    good = outgoing(mention("A", BASE))
    bad = [
        Outgoing(MENTIONS, b"A", b"{"),
        good._replace(key=b"B"),
        outgoing(mention("A\0", BASE)),
        outgoing(mention("A" * 5_000, BASE)),
    ]
    bus.publish([*bad, good])
    with working(settings) as worker:
        until(lambda: sum(end for end in bus.ends(dead(MENTIONS)).values()) == len(bad), worker)
        until(lambda: rows(settings.database).n == 1, worker)
    letters = bus.reader([dead(MENTIONS)]).poll(5)
    assert sorted(dict(letter.headers)["reason"] for letter in letters) == [
        b"invalid",
        b"invalid",
        b"key",
        b"malformed",
    ]


def test_what_is_counted_is_no_lag_and_what_is_not_is(settings: Settings, bus: PostgresBus) -> None:
    events = made(30)
    bus.publish([outgoing(event) for event in events])
    assert lag(settings, bus, "monitor", MENTIONS).lag == 30
    count_all(settings, events)
    assert lag(settings, bus, "monitor", MENTIONS).lag == 0


def test_silence_closes_windows_and_a_mention_in_time_opens_one_again(settings: Settings, bus: PostgresBus) -> None:
    bus.publish([outgoing(mention("A", BASE))])
    with working(settings, idle_ms=300) as worker:
        until(lambda: rows(settings.database).windows.get(("A", BASE), ())[5:] == (True, 3), worker)
        bus.publish([outgoing(mention("A", BASE + 1))])
        until(lambda: rows(settings.database).windows[("A", BASE)][5:] == (True, 5), worker)
    assert rows(settings.database).late == {}


def test_restored_windows_are_closed_too(settings: Settings, bus: PostgresBus) -> None:
    bus.publish([outgoing(mention("A", BASE))])
    count_all(settings, [mention("A", BASE)])
    assert query(settings.database, "SELECT closed FROM window_minute") == [(False,)]
    with working(settings, idle_ms=300) as worker:
        until(lambda: query(settings.database, "SELECT closed FROM window_minute") == [(True,)], worker)
