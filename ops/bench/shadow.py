"""What a shadow takes from the champion: its texts per second at full load, without one and with one.

The shadow has another encoder, which is the dearer case: on the champion's own, it waits for a free lane; here lanes of
its own compete.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Sequence
from statistics import median
from typing import Any, Final, cast

import numpy as np

from ops.bench.common import ROOT, console, medians
from services.score import artifact
from services.score.base import Encoding, find
from services.score.engine import Engine, open_engine, open_runtime
from services.score.shadow import Batch, Shadow
from services.score.worker import MAX_RECORDS
from services.stream import topics
from services.stream.bus import Bus, Outgoing, Record
from services.stream.events import CleanText, ModelChange, Origin

SHARE: Final = 0.1
SECONDS: Final = 15.0
"""Many times what a piece of work and its rest take."""
SEED: Final = 7


class Nowhere:
    """A bus that only counts: the log's own cost is another benchmark's."""

    published = 0

    def publish(self, events: Sequence[Outgoing]) -> Sequence[Any]:
        """See `Bus`."""
        self.published += len(events)
        return ()

    def close(self) -> None:
        """See `Bus`."""


def run(texts: Sequence[str], runs: int) -> dict[str, Any]:
    """Medians of both arms, which take turns, and the champion's rate with a shadow against that without."""
    champion = open_engine(artifact.bundled(), device="cpu", cache=ROOT / "var" / "models")
    plain = open_runtime(Encoding(find()), device="cpu", cache=ROOT / "var" / "models")
    assert plain.key != champion.runtime.key
    challenger = Engine(plain, champion.model)
    batches = _batches(random.Random(SEED).sample(list(texts), len(texts)))
    found: dict[str, list[dict[str, Any]]] = {"alone": [], "with_a_shadow": []}
    for engine in (champion, challenger):
        engine.score([text.text for text, _ in batches[0]])
    arms: list[tuple[str, Engine | None]] = [("alone", None), ("with_a_shadow", challenger)]
    for _ in range(runs):
        for name, beside in arms:
            found[name].append(_measured(champion, batches, beside))
        arms.reverse()
        console.print({name: done[-1] for name, done in found.items()})
    pairs = zip(found["with_a_shadow"], found["alone"], strict=True)
    return {
        "share": SHARE,
        "seconds": SECONDS,
        "batch": MAX_RECORDS,
        **{name: medians(done) for name, done in found.items()},
        "ratio": round(median(beside["texts_per_s"] / alone["texts_per_s"] for beside, alone in pairs), 4),
    }


def _batches(texts: Sequence[str]) -> list[Batch]:
    """As the worker polls them."""
    made: list[Batch] = []
    for at in range(0, len(texts) - MAX_RECORDS + 1, MAX_RECORDS):
        batch = []
        for number, text in enumerate(texts[at : at + MAX_RECORDS], start=at):
            event = CleanText(
                text_id=str(number), cluster=str(number), text=text, source="bench", event_time=0, received=0,
                language="en", origin=Origin(topics.RAW, 0, number),
            )  # fmt: skip
            batch.append((event, Record(topics.CLEAN, 0, number, 0, b"", b"")))
        made.append(batch)
    assert made, f"it takes {MAX_RECORDS} texts"
    return made


def _measured(champion: Engine, batches: Sequence[Batch], challenger: Engine | None) -> dict[str, Any]:
    """One arm: the champion without a pause for `SECONDS`, each batch offered to the shadow."""
    bus = Nowhere()
    shadow = Shadow(lambda _: challenger or champion, lambda: cast(Bus, bus), SHARE)
    if challenger is not None:
        shadow.follow(ModelChange(epoch=2, version="challenger", action="shadow", previous="champion", at=0))
        while shadow.state is None or shadow.state.state != "scoring":
            time.sleep(0.01)
    scored, spent = 0, []
    began = time.perf_counter()
    for batch in itertools.cycle(batches):
        started = time.perf_counter()
        champion.score([text.text for text, _ in batch])
        spent.append(time.perf_counter() - started)
        scored += len(batch)
        shadow.offer(batch)
        if (seconds := time.perf_counter() - began) >= SECONDS:
            break
    shadow.follow(None)
    return {
        "texts_per_s": round(scored / seconds, 1),
        "batch_p50_ms": round(float(np.percentile(spent, 50)) * 1000, 1),
        "batch_p99_ms": round(float(np.percentile(spent, 99)) * 1000, 1),
        "shadow_texts_per_s": round(bus.published / seconds, 1),
    }
