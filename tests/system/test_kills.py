"""20,000 texts, twenty services killed with -9, Valkey wiped once, people correcting all the while.

Nothing is lost, nothing counts twice, order is kept; a wiped Valkey forgets near copies, and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from kafka_broker import fresh_broker, need_kafka
from system.account import ORDER, accounted, in_order
from system.loop import Killer, TickerLoop, eventually
from system.texts import Story, write

COUNT = 20_000
KILLS = 20
RATE = 400
"""Texts per second while services are killed: cleaning would be done after a third of the kills."""
SEED = 11
NEAR = 0.02
CORRECTIONS = 12
"""After each kill."""
DONE = (
    "SELECT coalesce(sum(n), 0) FROM tally"
    " WHERE topic IN ('predictions', 'texts.rejected', 'texts.raw.dead', 'texts.clean.dead')"
)
KINDS = ["embedded", pytest.param("kafka", marks=pytest.mark.kafka)]


class Outcome(NamedTuple):
    """What a run left behind. `done`: texts accounted for at each kill; `given`, `examples`: words on predictions."""

    scored: dict[str, tuple[Any, ...]]
    windows: dict[tuple[str, int], tuple[Any, ...]]
    status: dict[str, Any]
    order: list[tuple[int, int, int]]
    killed: list[str]
    done: list[int]
    given: set[tuple[str, str]]
    examples: list[tuple[str, str]]


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Story]]:
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    start = (int(time.time()) // 60 - 10) * 60_000
    return path, write(path, COUNT, SEED, start, NEAR)


@contextmanager
def _bus(kind: str, folder: Path) -> Iterator[str]:
    """A log that nothing was written to yet."""
    if kind == "embedded":
        yield kind
        return
    with fresh_broker(folder) as broker:
        yield f"kafka://{broker.bootstrap}"


def _run(path: Path, data: Path, kind: str, seed: int | None) -> Outcome:
    # No retraining: another model would answer otherwise.
    settings = {"TICKERLOOP_RETRAIN_AFTER": "1000000"}
    ingest = ["ingest", str(path), "--id-field", "id", *([] if seed is None else ["--rate", str(RATE)])]
    done: list[int] = []
    given: set[tuple[str, str]] = set()
    with _bus(kind, data / "broker") as bus, TickerLoop(data, bus, settings) as loop:
        feeding = loop.start(*ingest)
        killer = Killer(loop, seed or 0)
        if seed is not None:
            for number in range(KILLS):
                if number % 2 == 0:  # The others strike while services still recover, however slow the machine is.
                    before = done[-1] if done else 0
                    eventually(lambda n=before: _done(loop) > n, 120, "nothing goes on")  # type: ignore[misc]
                killer.pause(0.3, 2.0)
                done.append(_done(loop))
                if feeding.poll() is None and killer.toss(0.3):
                    feeding.kill()
                    feeding.wait()
                    killer.killed.append("ingest")
                else:
                    killer.strike()
                if number == KILLS // 2:
                    loop.wipe_valkey()
                given |= _correct(loop, f"annotator{number}")
                if feeding.poll() not in (None, 0):
                    feeding = loop.start(*ingest)
        while feeding.wait(300) != 0:
            feeding = loop.start(*ingest)
        loop.run("status", "--wait")
        return _outcome(loop, killer.killed, done, given)


def _done(loop: TickerLoop) -> int:
    return int(loop.rows(DONE)[0][0])


def _correct(loop: TickerLoop, annotator: str) -> set[tuple[str, str]]:
    """Correct the newest predictions; whatever was killed meanwhile, each word is sent until it is taken."""
    newest = "SELECT prediction_id, text_id, label FROM prediction ORDER BY position DESC LIMIT "
    given = set()
    for prediction, text, label in loop.rows(newest + str(CORRECTIONS)):
        word = {"prediction_id": prediction, "text_id": text, "annotator": annotator, "kind": "correction"}
        body = word | {"label": "negative" if label != "negative" else "positive"}
        eventually(lambda body=body: _taken(loop, body), 60, "the gateway did not come back")  # type: ignore[misc]
        given.add((prediction, annotator))
    return given


def _taken(loop: TickerLoop, body: dict[str, str]) -> bool:
    try:
        loop.post("/v1/feedback", body)
    except (httpx.TransportError, httpx.HTTPStatusError):
        return False
    return True


def _outcome(loop: TickerLoop, killed: list[str], done: list[int], given: set[tuple[str, str]]) -> Outcome:
    counted = (
        "SELECT (SELECT coalesce(sum(n), 0) FROM window_minute) + (SELECT coalesce(sum(n), 0) FROM late_mention),"
        " (SELECT coalesce(sum(cardinality(tickers)), 0) FROM prediction)"
    )
    eventually(lambda: len(set(loop.rows(counted)[0])) == 1, 60, "the windows hold not every mention once")
    learnt = "SELECT prediction_id, name FROM example JOIN annotator ON pseudonym = annotator"
    eventually(lambda: len(loop.rows(learnt)) >= len(given), 60, "corrections are missing")
    scored = loop.rows(
        "SELECT t.external_id, p.label, p.positive - p.negative, p.tickers, p.model, p.epoch"
        " FROM prediction p JOIN text t USING (text_id)"
    )
    windows = loop.rows("SELECT ticker, start, n, negative, neutral, positive, sentiment FROM window_minute")
    return Outcome(
        {row[0]: row[1:] for row in scored},
        {(w[0], w[1]): w[2:] for w in windows},
        loop.status(),
        loop.rows(ORDER),
        killed,
        done,
        given,
        [(prediction, annotator) for prediction, annotator in loop.rows(learnt)],
    )


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
    assert wild.done[0] < wild.done[-1] < calm.status["account"]["taken"], "no text was under way at the last kill"
    assert len(wild.given) > CORRECTIONS * KILLS / 2
    assert sorted(wild.examples) == sorted(wild.given), "each correction is one example"
    for outcome in (calm, wild):
        accounted(outcome.status, outcome.scored, stories, forgotten=outcome is wild)
        in_order(outcome.order)
    _equal(calm, wild, stories)


def _equal(calm: Outcome, wild: Outcome, stories: dict[str, Story]) -> None:
    members = {i: name for name, story in stories.items() for i in story.ids}
    by_story = [{members[i]: row for i, row in outcome.scored.items()} for outcome in (calm, wild)]
    for name, row in by_story[0].items():
        if stories[name].alike:
            other = by_story[1][name]
            assert row[0] == other[0] and row[2:] == other[2:], name
            assert row[1] == pytest.approx(other[1], abs=1e-3)
    assert calm.windows.keys() == wild.windows.keys()
    for key, window in calm.windows.items():
        assert window[:4] == wild.windows[key][:4]
        assert window[4] == pytest.approx(wild.windows[key][4], abs=1e-3)
