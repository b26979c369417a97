"""Promotions are prepared: each live scorer is ready or refuses before anything is decided; then they switch."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from loop.conftest import Opened
from loop.scoring import Predictions, Scorer, Stream, add_model, database, epochs, eventually, promote, tampered

from services import status
from services.cli import main
from services.score import worker
from services.score.base import exported
from services.score.engine import Engine
from services.settings import Settings
from services.stream import topics
from services.trainer import registry
from services.trainer.promotion import Unprepared


def actions(settings: Settings) -> list[str]:
    with database(settings) as cursor:
        return [row.action for row in registry.ledger(cursor)]


def announced(settings: Settings) -> list[int]:
    with closing(settings.open_bus("test")) as bus:
        return [change.epoch for change in registry.announced(bus)]


def liar(settings: Settings, engine: Engine) -> str:
    return add_model(settings, engine, lies=True)


@pytest.mark.parametrize(
    ("broken", "reason"), [(tampered, "recorded hash"), (liar, "does not give its stored answers")]
)
def test_one_that_cannot_be_served_is_refused_before_it_is_promoted(
    settings: Settings, engine: Engine, broken: Callable[[Settings, Engine], str], reason: str
) -> None:
    with Scorer(settings) as scorer, Stream(settings), Predictions(settings) as predictions:
        version = broken(settings, engine)
        with pytest.raises(Unprepared, match=f"score 0 refuses it: .*{reason}"):
            promote(settings, version)
        assert actions(settings) == ["promote"] and announced(settings) == [1]
        predictions.wait_for(1)
        assert scorer.epoch == 1 and {one.epoch for one in predictions.all()} == {1}
        assert promote(settings, add_model(settings, engine, 0.02)) == 2, "a good one is not in its way"


@pytest.mark.usefixtures("opened")
def test_where_one_of_two_refuses_neither_switches(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = add_model(settings, engine)
    theirs, share = settings.data_folder / "theirs", worker.open_engine

    def refusing(folder: Path, **options: Any) -> Engine:
        if folder == theirs / version:
            raise MemoryError("no room for it")
        return share(folder, **options)

    monkeypatch.setattr(worker, "open_engine", refusing)
    with (
        Scorer(settings) as one,
        Scorer(msgspec.structs.replace(settings, models=str(theirs)), slot=1) as other,
    ):
        with pytest.raises(
            Unprepared, match=r"^unprepared: model .* is not promoted: score 1 refuses it: no room for it$"
        ):
            promote(settings, version)
        assert actions(settings) == ["promote"] and (one.epoch, other.epoch) == (1, 1)
        monkeypatch.setattr(worker, "open_engine", share)
        assert promote(settings, version) == 2, "what has been mended is asked for again"
        eventually(lambda: (one.epoch, other.epoch) == (2, 2), "they did not switch")


def test_the_stream_goes_on_meanwhile_and_a_partition_that_moves_never_goes_back(
    settings: Settings, engine: Engine, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = add_model(settings, engine)
    go_on, share = threading.Event(), worker.open_engine

    def slow(folder: Path, **options: Any) -> Engine:
        if folder.name == version:
            assert go_on.wait(60)
        return share(folder, **options)

    monkeypatch.setattr(worker, "open_engine", slow)
    with (
        Scorer(settings) as one,
        Stream(settings),
        Predictions(settings) as predictions,
        ThreadPoolExecutor(1) as pool,
    ):
        predictions.wait_for(20)
        promoting: Future[int] = pool.submit(promote, settings, version)
        eventually(lambda: one.context.detail.get("preparation", {}).get("answer") == "preparing", "it isn't prepared")
        with Scorer(settings, slot=1) as other:  # takes a partition over, and is asked, too
            predictions.wait_for(100)
            assert not promoting.done() and {p.epoch for p in predictions.all()} == {1}
            go_on.set()
            assert promoting.result(60) == 2
            eventually(lambda: (one.epoch, other.epoch) == (2, 2), "they did not switch")
            assert opened.count(version) == 2, "each has opened it once, and not to switch"
            predictions.wait_for(50)
        predictions.wait_for(50)  # by one alone again
        found = predictions.all()
    assert len({p.text_id for p in found}) == len(found)
    for row in epochs(found).values():
        assert row == sorted(row) and set(row) == {1, 2}


def process(settings: Settings, slot: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "services.cli", "run", "score", "--slot", str(slot)]
    return subprocess.Popen(command, env=os.environ | settings.environment(), stderr=subprocess.DEVNULL)


@pytest.mark.usefixtures("opened")
def test_one_killed_between_preparation_and_decision_holds_nobody_up(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = add_model(settings, engine)
    export = exported(engine.runtime.encoding).parent
    shutil.copytree(export, settings.model_cache / export.name)  # the process needn't build it
    victim = process(settings, 1)
    decide = registry.decide

    def after_the_kill(*arguments: Any, **named: Any) -> registry.LedgerRow:
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
        return decide(*arguments, **named)

    try:
        with Scorer(settings) as scorer, Stream(settings), Predictions(settings) as predictions:
            eventually(lambda: len(serving(settings)) == 2, "the process did not start", 120)
            monkeypatch.setattr(registry, "decide", after_the_kill)
            assert promote(settings, version) == 2
            eventually(lambda: scorer.epoch == 2, "it did not switch")
            monkeypatch.setattr(registry, "decide", decide)
            began = time.monotonic()
            assert promote(settings, add_model(settings, engine, 0.02)) == 3
            assert time.monotonic() - began < settings.prepare_s, "a dead one is not waited for"
            eventually(
                lambda: {p.origin.partition for p in predictions.all() if p.epoch == 3} == {0, 1},
                "the dead one's partition was not taken over",
            )
            for row in epochs(predictions.all()).values():
                assert row == sorted(row)
    finally:
        victim.kill()
        victim.wait()


def serving(settings: Settings) -> list[status.Service]:
    with database(settings) as cursor:
        return [s for s in status.services(cursor) if s.alive and s.state == "running"]


@pytest.mark.parametrize("settings", ["embedded"], indirect=True)
def test_one_that_does_not_answer_is_named(settings: Settings, engine: Engine) -> None:
    settings = msgspec.structs.replace(settings, prepare_s=1)
    with database(settings) as cursor:
        cursor.execute(
            "INSERT INTO service (name, slot, pid, state, detail, started, beat) VALUES"
            " ('score', 3, 1, 'running', '{}', 0, 9000000000000), ('score', 4, 1, 'starting', '{}', 0, 9000000000000)"
        )
    version = add_model(settings, engine)
    with pytest.raises(Unprepared, match=r"promoted: score 3 did not answer within 1 s$"):
        promote(settings, version)
    command = ["models", "promote", version, "--reason", "a test"]
    answer = CliRunner().invoke(main, command, env=settings.environment())
    assert answer.exit_code == 3 and "score 3 did not answer within 1 s" in " ".join(answer.output.split())
    assert actions(settings) == ["promote"]


@pytest.mark.parametrize("settings", ["embedded"], indirect=True)
def test_whoever_is_overtaken_by_another_promotion_is_told(settings: Settings, engine: Engine) -> None:
    with database(settings) as cursor:
        cursor.execute(
            "INSERT INTO service (name, slot, pid, state, detail, started, beat)"
            " VALUES ('score', 0, 1, 'running', %s, 0, 9000000000000)",
            ('{"preparation": {"offset": 1, "model": "other", "answer": "ready"}}',),
        )
    with pytest.raises(registry.Conflict, match="score 0 was asked to prepare other"):
        promote(settings, add_model(settings, engine))
    with closing(settings.open_bus("test")) as bus:
        assert sum(bus.ends(topics.PREPARATIONS).values()) == 1
