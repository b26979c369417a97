"""The whole loop, from a file to rows in Postgres, against the bare engine on the same cleaned texts."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from typing import Any

import msgspec

from ops.bench.common import ROOT, Corpus, accounted, cleaned, console, cpu_seconds, gateway, ingest, loop, medians


def run(corpus: Corpus, runs: int, bus: str) -> dict[str, Any]:
    """Wall time, texts per second, the bare engine's, their ratio, CPU seconds by service, the account."""
    return medians([_once(corpus, bus) for _ in range(runs)])


def rate(corpus: Corpus, bus: str) -> float:
    """Texts per second of one run."""
    return float(_once(corpus, bus)["texts_per_s"])


def workers(corpus: Corpus, runs: int, bus: str) -> dict[str, Any]:
    """Two score workers of one lane each, with their own partitions, against one of two; they take turns."""
    one, two = [], []
    for _ in range(runs):
        one.append(_once(corpus, bus, 1, threads=2))
        two.append(_once(corpus, bus, 2, threads=1))
    found = {"one": medians(one), "two": medians(two)}
    ratio = found["two"]["texts_per_s"] / found["one"]["texts_per_s"]
    return {name: figures["texts_per_s"] for name, figures in found.items()} | {"ratio": round(ratio, 3)}


def _once(corpus: Corpus, bus: str, scorers: int = 1, **changes: Any) -> dict[str, Any]:
    with loop(bus, {"score": scorers}, **changes) as up:
        with gateway(up.settings) as client:
            client.post("/v1/score", json={"texts": ["warm"] * 64}).raise_for_status()
        before = cpu_seconds(up)
        started = time.monotonic()
        ingested = ingest(up.settings, corpus)
        account = accounted(up.settings, corpus.rows)
        seconds = time.monotonic() - started
        used = {name: round(spent - before[name], 2) for name, spent in cpu_seconds(up).items()}
        scored = cleaned(up.settings)
    bare = _bare(scored)
    figures = {
        "texts": account.taken,
        "scored": account.scored,
        "rejected": account.rejected,
        "duplicate": account.duplicate,
        "dead": account.dead,
        "ingest_s": round(ingested, 2),
        "wall_s": round(seconds, 2),
        "texts_per_s": round(account.taken / seconds, 1),
        "engine_texts_per_s": round(len(scored) / bare, 1),
        "ratio": round(bare / seconds, 3),
        "cpu_s": used,
    }
    console.print(f"  {bus}: {figures}")
    return figures


def _bare(texts: list[str]) -> float:
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        file.write(msgspec.json.encode(texts))
        file.flush()
        command = [sys.executable, "-m", "ops.bench.bare", file.name]
        return float(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
