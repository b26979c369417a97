"""kill -9 at random points of training runs and promotions, twenty on the embedded log: never two champions, never half
a model, and the trainer that comes next goes on."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from loop.rollouts import passes, person, rows, state, unbroken
from loop.scoring import Scorer, database, eventually

from services.demo import readers
from services.score import artifact
from services.score.base import exported
from services.score.engine import Engine
from services.settings import Settings
from services.stream.events import in_holdout
from services.trainer import registry

SEED = 5
DESKS = ("energy", "metals_ags", "crypto")
"""Whose readers mean something else by good news than the bundled model: what they teach passes the gate."""
LABELS = 600


def teach(settings: Settings, model: str) -> int:
    """What a desk's readers said of texts that `model` has scored, as the store and the trainer keep it; how much of it
    is there to learn from."""
    known = [
        (label.id, msgspec.json.decode(line)["text"], label.label)
        for label, line in readers.stream()
        if label.part in DESKS and label.label and label.copy_of is None and label.kind != "dead"
    ][:LABELS]
    with database(settings) as cursor:
        for name, body, label in known:
            cursor.execute(
                "INSERT INTO text (text_id, cluster, body, source, language, marks, event_time, received)"
                " VALUES (%s, %s, %s, 'desk', 'en', '{}', 1, 1)",
                (name, name, body),
            )
            cursor.execute(
                "INSERT INTO prediction (prediction_id, text_id, cluster, label, negative, neutral, positive, model,"
                " epoch, tickers, source, language, event_time, scored, truncated, abstained, origin_partition,"
                " origin_offset) VALUES ('p' || %s, %s, %s, 'neutral', 0.1, 0.8, 0.1, %s, 1, '{}', 'desk', 'en', 1, 1,"
                " false, false, 0, 0)",
                (name, name, name, model),
            )
            cursor.execute(
                "INSERT INTO example (example_id, feedback_id, prediction_id, text_id, cluster, predicted, label,"
                " model, epoch, annotator, sampled, holdout, given)"
                " VALUES (%s, 'f', 'p' || %s, %s, %s, 'neutral', %s, %s, 1, 'ana', %s, %s, 1)",
                (name, name, name, name, label, model, in_holdout(name), in_holdout(name)),
            )
    return sum(not in_holdout(name) for name, _, _ in known)


class Trainer:
    """`tickerloop run trainer`, a process that is killed and started again."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._log = (settings.data_folder / "trainer.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "services.cli", "run", "trainer"]
        environment = os.environ | self._settings.environment()
        self._process = subprocess.Popen(command, env=environment, stderr=self._log)

    def kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def dry_run(self) -> float:
        """Seconds that a run takes."""
        command = [sys.executable, "-m", "services.cli", "train", "--dry-run"]
        environment = os.environ | self._settings.environment()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
        return float(json.loads(done.stdout)["seconds"])


def runs(settings: Settings) -> list[str]:
    with database(settings) as cursor:
        cursor.execute("SELECT state FROM training_run ORDER BY run")
        return [found for (found,) in cursor.fetchall()]


def whole(settings: Settings, scratch: Path) -> None:
    """Every row follows the one before, and every registered model is all there."""
    assert registry.verify(rows(settings)) == []
    shutil.rmtree(scratch, ignore_errors=True)
    with database(settings) as cursor:
        for version in registry.versions(cursor):
            folder = registry.fetch(cursor, version.version, scratch)
            assert artifact.load(folder).card.version == version.version


@pytest.fixture
def trainer(quick: Settings, engine: Engine) -> Iterator[Trainer]:
    export = exported(engine.runtime.encoding).parent
    shutil.copytree(export, quick.model_cache / export.name)  # the processes needn't build it
    learnable = teach(quick, engine.card.version)
    found = Trainer(msgspec.structs.replace(quick, retrain_after=learnable, retrain_cooldown_s=0))
    yield found
    found.kill()


@pytest.mark.system
@pytest.mark.timeout(1500)
@pytest.mark.usefixtures("opened")
@pytest.mark.parametrize(
    ("settings", "kills", "of_training"),
    [("embedded", 20, 8), pytest.param("kafka", 6, 2, marks=pytest.mark.kafka)],
    indirect=["settings"],
)
def test_kills_leave_one_champion_and_whole_models(
    quick: Settings, trainer: Trainer, kills: int, of_training: int, tmp_path: Path
) -> None:
    chance, scratch = random.Random(SEED), tmp_path / "scratch"
    training = trainer.dry_run()
    with Scorer(quick) as one, Scorer(quick, slot=1) as other:
        killed = 0
        trainer.start()
        while killed < of_training:
            eventually(lambda n=killed: runs(quick)[n + 1 :] == ["running"], "no training began", 120)  # type: ignore[misc]
            time.sleep(training * chance.random())
            if len(rows(quick)) > 2:
                break  # this one was quicker
            trainer.kill()
            killed += 1
            whole(quick, scratch)
            trainer.start()
        eventually(lambda: rows(quick)[-1].action == "promote" and len(rows(quick)) > 2, "nothing came of it", 300)
        assert actions(quick) == ["promote", "dry-run", "pass", "shadow", "promote"]
        assert runs(quick) == ["dry run", *["failed"] * killed, "passed"]
        challenger = rows(quick)[-1].version
        promoting = again(quick, challenger)
        while killed < kills:
            again(quick, challenger, lambda: kill(trainer, promoting * chance.random()))
            killed += 1
            whole(quick, scratch)
            epoch = rows(quick)[-1].epoch
            eventually(lambda e=epoch: (one.epoch, other.epoch) == (e, e), "a scorer stayed behind")  # type: ignore[misc]
    eventually(lambda: unbroken(quick) == [], "the ledger and `models` differ")


def actions(settings: Settings) -> list[str]:
    return [row.action for row in rows(settings)]


def kill(trainer: Trainer, after: float) -> None:
    time.sleep(after)
    trainer.kill()
    trainer.start()


def again(settings: Settings, challenger: str, meanwhile: Callable[[], None] = lambda: None) -> float:
    """Take the challenger back and let it pass once more, until it is champion; the seconds that its way took."""
    with person(settings) as ana:
        ana.rollback(actor="ana", reason="once more")
    began = time.monotonic()
    passes(settings, challenger)
    meanwhile()
    eventually(lambda: state(settings) is None, "its successor did not go on", 120)
    assert actions(settings)[-4:] == ["rollback", "pass", "shadow", "promote"], "each step is taken once"
    assert rows(settings)[-1].version == challenger
    return time.monotonic() - began
