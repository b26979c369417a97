"""A steady stream: how long from accepting a text to seeing its prediction on the live stream, and what a swap costs.

An open-loop client posts at a fixed rate, whatever the answers do; another reads the live stream. In the middle a
second model is promoted.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import aiohttp
import msgspec
import numpy as np
import psutil

from ops.bench import end_to_end
from ops.bench.common import Corpus, console, cpu_seconds, loop, medians
from services.score import artifact
from services.score.engine import open_engine
from services.settings import Settings
from services.stream.bus import Outgoing
from services.supervisor.up import Up
from services.trainer import registry
from services.trainer.promotion import Promoter

LATE_S = 1.0
"""A prediction that comes later than this after its text was accepted counts as late."""
AFTER_S = 2.0
"""Texts accepted from when a promotion is asked for until so long after it is answered are around the swap."""
DRAIN_S = 15.0
"""Without anything new for so long after the last post, what hasn't been seen is lost."""
FULL = 0.9
"""Of the rate at which the loop takes a file: a queue that only grows has no percentiles."""
STEADY = 0.7
TOGETHER = 16
"""Texts of a post at those rates, at which single posts take more CPU than the loop has left for them."""


class Seen(NamedTuple):
    """One prediction on the live stream, in the order in which it came; `at` by this process's clock."""

    text_id: str
    at: float
    model: str
    epoch: int


class _View(msgspec.Struct):
    text_id: str
    model: str
    epoch: int


def run(texts: Sequence[str], runs: int, bus: str, rate: float, seconds: float) -> dict[str, Any]:
    """Single texts: latencies in milliseconds, and what became of the texts around the swap."""
    return medians([_once(texts, bus, rate, seconds, 1) for _ in range(runs)])


def swap(corpus: Corpus, runs: int, bus: str, seconds: float) -> dict[str, Any]:
    """The same at `FULL` load."""
    rate = FULL * end_to_end.rate(corpus, bus)
    found = medians([_once(corpus.texts, bus, rate, seconds, TOGETHER) for _ in range(runs)])
    return {"rate": round(rate, 1)} | found


def steady(corpus: Corpus, bus: str, seconds: float) -> dict[str, Any]:
    """At `STEADY` load without a swap, for longer: latency by the minute, and each process's memory at both ends."""
    rate = STEADY * end_to_end.rate(corpus, bus)
    with loop(bus) as up:
        memory = [_memory(up)]
        accepted, _, seen, _ = asyncio.run(_drive(up.settings, corpus.texts, rate, seconds, TOGETHER, None))
        memory.append(_memory(up))
    first = {one.text_id: one.at for one in reversed(seen)}
    start = min(accepted.values())
    minutes: dict[int, list[float]] = defaultdict(list)
    for text_id, at in accepted.items():
        if text_id in first:
            minutes[int(at - start) // 60].append(1000 * max(0.0, first[text_id] - at))
    figures = {
        "rate": round(rate, 1),
        "texts": len(accepted),
        "lost": len(accepted) - len(first),
        "p99_ms_by_minute": [_percentile(np.array(minutes[number]), 99) for number in sorted(minutes)],
        "p50_ms_by_minute": [_percentile(np.array(minutes[number]), 50) for number in sorted(minutes)],
        "memory_mb_first": memory[0],
        "memory_mb_last": memory[1],
    }
    console.print(f"  {bus}: {figures}")
    return figures


def _memory(up: Up) -> dict[str, int]:
    """Resident megabytes by service and server, children included; of PostgreSQL's shared pages each has its own
    share."""
    found = {}
    for name, pid in up.pids().items():
        root = psutil.Process(pid)
        shares = [one.memory_full_info().pss for one in (root, *root.children(recursive=True))]
        found[name.removesuffix(".0")] = sum(shares) // 1_000_000
    return found


def _once(texts: Sequence[str], bus: str, rate: float, seconds: float, together: int) -> dict[str, Any]:
    with loop(bus) as up:
        own = time.process_time()
        second = _second_model(up.settings)
        before = cpu_seconds(up)
        accepted, sent, seen, swapped = asyncio.run(_drive(up.settings, texts, rate, seconds, together, second))
        used = {name: round(spent - before[name], 2) for name, spent in cpu_seconds(up).items()}
        stored = _epochs(up.settings)
    figures = _figures(accepted, sent, seen, swapped) | {
        "mixed": _mixed(seen) + _backwards(stored),
        "by_second_model": sum(one.model == second for one in seen),
        "cpu_s": used | {"client": round(time.process_time() - own, 2)},
    }
    console.print(f"  {bus}: {figures}")
    return figures


def _figures(
    accepted: dict[str, float], sent: dict[str, float], seen: list[Seen], swapped: tuple[float, float]
) -> dict[str, Any]:
    first = {one.text_id: one.at for one in reversed(seen)}
    known = [text_id for text_id in accepted if text_id in first]
    waits = 1000 * np.array([max(0.0, first[text_id] - accepted[text_id]) for text_id in known])
    whole = 1000 * np.array([first[text_id] - sent[text_id] for text_id in known])
    near = np.array([swapped[0] <= accepted[text_id] <= swapped[1] + AFTER_S for text_id in known])
    return {
        "texts": len(accepted),
        "accept_to_seen_p50_ms": _percentile(waits, 50),
        "accept_to_seen_p99_ms": _percentile(waits, 99),
        "send_to_seen_p50_ms": _percentile(whole, 50),
        "send_to_seen_p99_ms": _percentile(whole, 99),
        "around_swap_p99_ms": _percentile(waits[near], 99),
        "around_swap_texts": int(near.sum()),
        "times_elsewhere": round(_percentile(waits[near], 99) / _percentile(waits[~near], 99), 2),
        "lost": len(accepted) - len(known),
        "twice": len(seen) - len(first),
        "late": int((waits > 1000 * LATE_S).sum()),
    }


def _percentile(values: np.ndarray, share: int) -> float:
    return round(float(np.percentile(values, share)), 1)


def _mixed(seen: Iterable[Seen]) -> int:
    """Predictions whose model isn't the one of their epoch."""
    models: dict[int, set[str]] = defaultdict(set)
    for one in seen:
        models[one.epoch].add(one.model)
    return sum(len(found) - 1 for found in models.values())


def _backwards(stored: Iterable[tuple[int, int]]) -> int:
    """Predictions of an older epoch after one of a newer, by partition and offset."""
    newest: dict[int, int] = {}
    back = 0
    for partition, epoch in stored:
        back += epoch < newest.get(partition, 0)
        newest[partition] = max(epoch, newest.get(partition, 0))
    return back


def _epochs(settings: Settings) -> list[tuple[int, int]]:
    with settings.connector("bench")() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT origin_partition, epoch FROM prediction ORDER BY origin_partition, origin_offset")
        return cursor.fetchall()


def _second_model(settings: Settings) -> str:
    """Register a model that differs from the bundled one by its temperature only; its version."""
    engine = open_engine(artifact.bundled(), cache=settings.model_cache)
    texts = [example.text for example in engine.card.examples]
    examples = dict(zip(texts, engine.embed(texts), strict=True))
    model = artifact.make(
        engine.model.head, 1.1 * engine.card.temperature, engine.runtime.encoding, languages=engine.card.languages,
        dataset="bench", parent=engine.card.version, metrics={}, examples=examples,
    )  # fmt: skip

    def write(cursor: Any) -> list[Outgoing]:
        registry.register(cursor, model.card.version, engine.card.version, artifact.files_of(model))
        return []

    bus = settings.open_bus("bench")
    bus.write(write)
    bus.close()
    return model.card.version


async def _drive(
    settings: Settings, texts: Sequence[str], rate: float, seconds: float, together: int, second: str | None
) -> tuple[dict[str, float], dict[str, float], list[Seen], tuple[float, float]]:
    accepted: dict[str, float] = {}
    sent: dict[str, float] = {}
    seen: list[Seen] = []
    promotion: asyncio.Task[tuple[float, float]] | None = None
    address = f"http://{settings.host}:{settings.port}"
    # httpx takes 3 ms of CPU for a request, a good part of what two cores have at 200 a second.
    forever = aiohttp.ClientTimeout(total=None)
    connections = aiohttp.TCPConnector(limit=64)
    async with aiohttp.ClientSession(address, timeout=forever, connector=connections) as client:
        listening = asyncio.create_task(_listen(client, seen))
        await _warm(client, seen)
        seen.clear()
        began = time.perf_counter()
        posts = set()
        coming = (f"{text} {number}" for number, text in enumerate(itertools.cycle(texts)))
        for number in range(int(rate * seconds / together)):
            due = began + number * together / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            batch = list(itertools.islice(coming, together))
            task = asyncio.create_task(_post(client, batch, due, accepted, sent))
            posts.add(task)
            task.add_done_callback(posts.discard)
            if second and promotion is None and due - began >= seconds / 2:
                promotion = asyncio.create_task(asyncio.to_thread(_promote, settings, second))
        await asyncio.gather(*posts)
        swapped = await promotion if promotion else (0.0, 0.0)
        posted = time.perf_counter()
        while len({one.text_id for one in seen}) < len(accepted):
            if time.perf_counter() > max(posted, seen[-1].at) + DRAIN_S:
                break
            await asyncio.sleep(0.05)
        listening.cancel()
    return accepted, sent, [one for one in seen if one.text_id in accepted], swapped


async def _warm(client: aiohttp.ClientSession, seen: list[Seen]) -> None:
    while not seen:
        async with client.post("/v1/texts", json={"text": f"warming up at {time.time_ns()}"}) as answer:
            answer.raise_for_status()
        await asyncio.sleep(0.2)
    await asyncio.sleep(1.0)


async def _post(
    client: aiohttp.ClientSession, texts: Sequence[str], due: float, accepted: dict[str, float], sent: dict[str, float]
) -> None:
    async with client.post("/v1/texts", json=[{"text": text} for text in texts]) as answer:
        answer.raise_for_status()
        ids = [one["text_id"] for one in (await answer.json())["accepted"]]
    accepted |= dict.fromkeys(ids, time.perf_counter())
    sent |= dict.fromkeys(ids, due)


async def _listen(client: aiohttp.ClientSession, seen: list[Seen]) -> None:
    """As a browser does: a stream that ends is taken up where it was left."""
    resume: dict[str, str] = {}
    while True:
        async with client.get("/v1/stream", headers=resume) as answer:
            name = b""
            async for line in answer.content:
                if line.startswith(b"id: "):
                    resume = {"Last-Event-ID": line[4:].strip().decode()}
                elif line.startswith(b"event: "):
                    name = line[7:].strip()
                elif line.startswith(b"data: ") and name == b"prediction":
                    view = msgspec.json.decode(line[6:], type=_View)
                    seen.append(Seen(view.text_id, time.perf_counter(), view.model, view.epoch))


def _promote(settings: Settings, version: str) -> tuple[float, float]:
    """When it was asked for, and answered."""
    asked = time.perf_counter()
    bus = settings.open_bus("bench")
    promoter = Promoter(bus, settings.connector("bench"), settings.prepare_s)
    promoter.promote(version, actor="bench", reason="a swap under load", evidence={})
    bus.close()
    return asked, time.perf_counter()
