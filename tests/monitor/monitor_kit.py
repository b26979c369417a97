"""What the monitor's tests stand on: mentions, the rows they must come to, and monitor processes to kill."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg2

from services.monitor.windows import Progress, Rules, Sighting, fold
from services.settings import Settings
from services.stream.bus import Outgoing, partition_of
from services.stream.events import LABELS, Mention, encode
from services.stream.topics import MENTIONS

PARTITIONS = 4
BASE = 1_700_000_040_000
"""The start of a minute long ago, so that no event is dated after its arrival."""
NEVER = 10**9
WAIT_S = 90.0
"""A generous wait: other work may share the machine. Nothing here asserts speed."""


def mention(ticker: str, at: int, sentiment: float = 0.5, number: int = 0) -> Mention:
    label = LABELS[0 if sentiment < -0.3 else 2 if sentiment > 0.3 else 1]
    return Mention(
        prediction_id=f"p{number}",
        text_id=f"t{number}",
        ticker=ticker,
        label=label,
        sentiment=sentiment,
        event_time=at,
        model="m",
        epoch=1,
    )


def outgoing(event: Mention) -> Outgoing:
    return Outgoing(MENTIONS, event.ticker.encode(), encode(event))


def made(count: int, seed: int = 7) -> list[Mention]:
    """Eleven tickers over a few hours of event time, out of order, some of them late."""
    random_ = random.Random(seed)
    return [
        mention(
            f"T{random_.randrange(11)}",
            BASE + number * 1_000 - int(random_.expovariate(1 / 60_000)),
            random_.uniform(-1, 1),
            number,
        )
        for number in range(count)
    ]


class Rows(NamedTuple):
    """Everything that readers see: windows as (n, negative, neutral, positive, sentiment, closed, revision), late."""

    windows: dict[tuple[str, int], tuple[Any, ...]]
    late: dict[tuple[str, int], int]

    @property
    def n(self) -> int:
        return sum(row[0] for row in self.windows.values()) + sum(self.late.values())


def expected(events: Sequence[Mention], rules: Rules | None = None) -> Rows:
    """What the events come to, by the pure module in one go."""
    rules = rules or Rules()
    rows = Rows({}, {})
    for partition in range(PARTITIONS):
        mine = [e for e in events if partition_of(e.ticker.encode(), PARTITIONS) == partition]
        folded = fold(Progress(), [Sighting(i, 2 * BASE, e) for i, e in enumerate(mine)], rules)
        upto = rules.closed_upto(folded.progress.watermark)
        for window, tally in folded.counted.items():
            closed = window.start <= upto
            sentiment = tally.micros / (1e6 * tally.n)
            rows.windows[tuple(window)] = (*tally[:4], sentiment, closed, 2 * tally.n + closed)
        rows.late.update({tuple(window): n for window, n in folded.late.items()})
    return rows


def query(url: str, statement: str, arguments: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement, arguments)
        return cursor.fetchall() if cursor.description else []


def rows(url: str) -> Rows:
    windows = query(
        url, "SELECT ticker, start, n, negative, neutral, positive, sentiment, closed, revision FROM window_minute"
    )
    late = query(url, "SELECT ticker, start, n FROM late_mention")
    return Rows({(r[0], r[1]): r[2:] for r in windows}, {(r[0], r[1]): r[2] for r in late})


def fail_on(url: str, ticker: str, code: str) -> None:
    """Make the step fail on `ticker` with this SQLSTATE: P0001 is a defect, 40001 passes."""
    query(
        url,
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION 'made to fail' USING ERRCODE = '{code}'; END $$;"
        " CREATE TRIGGER fail BEFORE INSERT ON window_minute"
        f" FOR EACH ROW WHEN (NEW.ticker = '{ticker}') EXECUTE FUNCTION fail()",
    )


def mend(url: str) -> None:
    query(url, "DROP FUNCTION fail() CASCADE")


def until(done: Callable[[], bool], worker: Worker | None = None) -> None:
    deadline = time.monotonic() + WAIT_S
    while not done():
        assert worker is None or worker.alive, worker.log.read_text()[-4000:]
        assert time.monotonic() < deadline, worker.log.read_text()[-4000:] if worker else "timed out"
        time.sleep(0.01)


class Worker:
    """One monitor process."""

    def __init__(self, settings: Settings, slot: int = 0, idle_ms: int = NEVER) -> None:
        folder = settings.data_folder
        folder.mkdir(exist_ok=True)
        self.log: Path = folder / f"worker-{slot}.log"
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, Path(__file__).with_name("worker.py"), str(slot), str(idle_ms)],
                env={**os.environ, **settings.environment(), "PYTHONPATH": str(Path(__file__).parents[2])},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(40)


@contextmanager
def working(settings: Settings, slot: int = 0, idle_ms: int = NEVER) -> Iterator[Worker]:
    worker = Worker(settings, slot, idle_ms)
    try:
        yield worker
    finally:
        worker.kill()


def count_all(settings: Settings, events: Sequence[Mention]) -> Rows:
    """Run one worker until all of `events` are counted; the rows."""
    with working(settings) as worker:
        until(lambda: rows(settings.database).n >= len(events), worker)
        assert worker.stop() == 0
    return rows(settings.database)


def count_with_kills(settings: Settings, events: Sequence[Mention], kills: int) -> Rows:
    """As `count_all`, with a kill -9 after each further share of the events."""
    for number in range(1, kills + 1):
        with working(settings) as worker:
            goal = number * len(events) // (kills + 1)
            until(lambda goal=goal: rows(settings.database).n >= goal, worker)  # type: ignore[misc]
            worker.kill()
        assert rows(settings.database).n < len(events), "killed too late to prove anything"
    return count_all(settings, events)
