"""What training takes from scoring: the champion's texts per second at full load, alone and with a run beside it.

The run is as the trainer starts one: a child process at low priority, tuning by low rank on as many threads as by
default. It learns the anchor set over and over; the log, the database and the gate are left out.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any, Final

import numpy as np
import psutil

from ops.bench.common import ROOT, console, medians
from services.score import artifact
from services.score.device import cores
from services.score.engine import Engine, open_engine
from services.score.head import Head
from services.score.worker import MAX_RECORDS
from services.stream.events import LABELS
from services.trainer.anchors import anchors
from services.trainer.beside import low_priority
from services.trainer.finetune import WAYS, default_threads
from services.trainer.head import torch_threads
from services.trainer.lesson import Lesson
from services.trainer.tune import Progress, tune

SECONDS: Final = 20.0


def run(texts: Sequence[str], runs: int) -> dict[str, Any]:
    """Medians of both arms, which take turns; the champion's rate beside a run against that alone, and how many cores
    the run had then and had once nothing was scored."""
    champion = open_engine(artifact.bundled(), device="cpu", cache=ROOT / "var" / "models")
    batches = [list(texts[at : at + MAX_RECORDS]) for at in range(0, len(texts) - MAX_RECORDS + 1, MAX_RECORDS)]
    assert batches, f"it takes {MAX_RECORDS} texts"
    champion.score(batches[0])
    found: dict[str, list[dict[str, Any]]] = {"alone": [], "beside_training": []}
    for _ in range(runs):
        found["alone"].append(_scored(champion, batches))
        with _training() as process:
            before = _cpu(process)
            found["beside_training"].append(_scored(champion, batches))
            found["beside_training"][-1]["training_cores"] = round((_cpu(process) - before) / SECONDS, 2)
            before = _cpu(process)
            time.sleep(SECONDS / 4)
            found["beside_training"][-1]["training_cores_undisturbed"] = round(
                4 * (_cpu(process) - before) / SECONDS, 2
            )
        console.print({name: done[-1] for name, done in found.items()})
    pairs = zip(found["beside_training"], found["alone"], strict=True)
    return {
        "seconds": SECONDS,
        "cores": cores(),
        "training_threads": default_threads(),
        **{name: medians(done) for name, done in found.items()},
        "ratio": round(median(beside["texts_per_s"] / alone["texts_per_s"] for beside, alone in pairs), 4),
    }


@contextmanager
def _training() -> Iterator[psutil.Process]:
    """A run that has begun to learn."""
    child = subprocess.Popen([sys.executable, "-m", "ops.bench.training_beside"], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None and child.stdout.readline(), "it has ended"
        yield psutil.Process(child.pid)
    finally:
        child.kill()
        child.wait()


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _scored(champion: Engine, batches: Sequence[list[str]]) -> dict[str, Any]:
    """The champion without a pause for `SECONDS`."""
    scored, spent = 0, []
    began = time.perf_counter()
    for batch in itertools.cycle(batches):
        started = time.perf_counter()
        champion.score(batch)
        spent.append(time.perf_counter() - started)
        scored += len(batch)
        if (seconds := time.perf_counter() - began) >= SECONDS:
            break
    return {
        "texts_per_s": round(scored / seconds, 1),
        "batch_p50_ms": round(float(np.percentile(spent, 50)) * 1000, 1),
        "batch_p99_ms": round(float(np.percentile(spent, 99)) * 1000, 1),
    }


def _train_for_ever() -> None:
    low_priority()
    engine = open_engine(artifact.bundled(), device="cpu", cache=ROOT / "var" / "models")
    own, head = engine.runtime.encoding, engine.model.head
    assert isinstance(head, Head)
    targets = np.eye(len(LABELS), dtype=np.float32)[[LABELS.index(anchor.label) for anchor in anchors()]]
    lesson = Lesson([anchor.text for anchor in anchors()], targets, np.ones(len(targets), np.float32))
    plan = WAYS["lora"].plan._replace(epochs=10_000)

    def begun(at: Progress) -> None:
        if at.step == 1:
            print("begun", flush=True)

    with torch_threads(default_threads()):
        tune(own.base, head, lesson, plan=plan, seed=1, adapter=own.adapter, progress=begun)


if __name__ == "__main__":
    _train_for_ever()
