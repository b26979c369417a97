"""Bus, cleaning and store, with scoring replaced by a constant: how fast the loop could feed a faster model."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psutil

from ops.bench.common import ROOT, Corpus, accounted, console, cpu_seconds, ingest, loop, medians
from services.settings import Settings
from services.status import collect


def run(corpus: Corpus, runs: int, bus: str) -> dict[str, Any]:
    """Texts and events per second from a backlog in `texts.raw` to rows."""
    return medians([_once(corpus, bus) for _ in range(runs)])


def _once(corpus: Corpus, bus: str) -> dict[str, Any]:
    with loop(bus, {"score": 0, "trainer": 0}) as up, _constant(up.settings) as scorer:
        before = cpu_seconds(up)
        started = time.monotonic()
        ingest(up.settings, corpus)
        account = accounted(up.settings, corpus.rows)
        seconds = time.monotonic() - started
        used = {name: round(spent - before[name], 2) for name, spent in cpu_seconds(up).items()}
        spent = scorer.cpu_times()
        with closing(up.settings.open_bus("bench")) as log:
            names = [topic.name for topic in up.settings.topics()]
            events = sum(sum(log.ends(name).values()) for name in names)
    figures = {
        "texts": account.taken,
        "events": events,
        "wall_s": round(seconds, 2),
        "texts_per_s": round(account.taken / seconds, 1),
        "events_per_s": round(events / seconds, 1),
        "cpu_s": used | {"constant": round(spent.user + spent.system, 2)},
    }
    console.print(f"  {bus}: {figures}")
    return figures


@contextmanager
def _constant(settings: Settings) -> Iterator[psutil.Process]:
    command = [sys.executable, "-m", "ops.bench.constant"]
    environment = os.environ | settings.environment()
    log = settings.data_folder / "log" / "constant.log"
    with log.open("w") as errors:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=errors)
    try:
        while not any(service.name == "score" and service.state == "running" for service in collect(settings).services):
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()
