"""20,000 texts at speed, twenty services killed with -9, Valkey wiped once: nothing lost, nothing twice, order kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from kafka_broker import fresh_broker, need_kafka
from system.account import ORDER, accounted, in_order
from system.loop import Killer, TickerLoop
from system.texts import Story, write

COUNT = 20_000
KILLS = 20
SEED = 11
KINDS = ["embedded", pytest.param("kafka", marks=pytest.mark.kafka)]


class Outcome(NamedTuple):
    """What a run left behind."""

    scored: dict[str, tuple[Any, ...]]
    windows: dict[tuple[str, int], tuple[Any, ...]]
    status: dict[str, Any]
    order: list[tuple[int, int, int]]
    killed: list[str]


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Story]]:
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    start = (int(time.time()) // 60 - 10) * 60_000
    return path, write(path, COUNT, SEED, start)


@contextmanager
def _bus(kind: str, folder: Path) -> Iterator[str]:
    """A log that nothing was written to yet."""
    if kind == "embedded":
        yield kind
        return
    with fresh_broker(folder) as broker:
        yield f"kafka://{broker.bootstrap}"


def _run(path: Path, data: Path, kind: str, seed: int | None) -> Outcome:
    with _bus(kind, data / "broker") as bus, TickerLoop(data, bus) as loop:
        feeding = loop.start("ingest", str(path), "--id-field", "id")
        killer = Killer(loop, seed or 0)
        if seed is not None:
            for number in range(KILLS):
                killer.pause(0.3, 2.0)
                if feeding.poll() is None and killer.toss(0.3):
                    feeding.kill()
                    feeding.wait()
                    killer.killed.append("ingest")
                else:
                    killer.strike()
                if number == KILLS // 2:
                    loop.wipe_valkey()
                if feeding.poll() not in (None, 0):
                    feeding = loop.start("ingest", str(path), "--id-field", "id")
        while feeding.wait(300) != 0:
            feeding = loop.start("ingest", str(path), "--id-field", "id")
        loop.run("status", "--wait")
        return _outcome(loop, killer.killed)


def _outcome(loop: TickerLoop, killed: list[str]) -> Outcome:
    deadline = time.monotonic() + 60
    windows: list[tuple[Any, ...]] = []
    while time.monotonic() < deadline:  # the monitor is a group of its own; wait until its sums stand still
        now = loop.rows("SELECT ticker, start, n, negative, neutral, positive, sentiment FROM window_minute")
        if now == windows and now:
            break
        windows = now
        time.sleep(3)
    scored = loop.rows(
        "SELECT t.external_id, p.label, p.positive - p.negative, p.tickers, p.model, p.epoch"
        " FROM prediction p JOIN text t USING (text_id)"
    )
    order = loop.rows(ORDER)
    status = loop.status()
    return Outcome({row[0]: row[1:] for row in scored}, {(w[0], w[1]): w[2:] for w in windows}, status, order, killed)


@pytest.mark.system
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("bus", KINDS)
def test_kills_change_nothing(bus: str, stream: tuple[Path, dict[str, Story]], folder: Path) -> None:
    if bus == "kafka":
        need_kafka()
    path, stories = stream
    calm = _run(path, folder / "calm", bus, None)
    wild = _run(path, folder / "wild", bus, SEED)
    assert len(wild.killed) >= KILLS
    for outcome in (calm, wild):
        accounted(outcome.status, outcome.scored, stories)
        in_order(outcome.order)
    _equal(calm, wild, stories)


def _equal(calm: Outcome, wild: Outcome, stories: dict[str, Story]) -> None:
    members = {i: name for name, story in stories.items() for i in story.ids}
    by_story = [{members[i]: row for i, row in outcome.scored.items()} for outcome in (calm, wild)]
    for name, row in by_story[0].items():
        other = by_story[1][name]
        assert row[0] == other[0] and row[2:] == other[2:], name
        assert row[1] == pytest.approx(other[1], abs=1e-3)
    assert calm.windows.keys() == wild.windows.keys()
    for key, window in calm.windows.items():
        assert window[:4] == wild.windows[key][:4]
        assert window[4] == pytest.approx(wild.windows[key][4], abs=1e-3)
