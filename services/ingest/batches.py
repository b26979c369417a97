"""Items → batches of events to publish: their size, their pace, and what a pipe does when nothing comes."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from services.ingest.envelope import outgoing
from services.ingest.lines import Place
from services.ingest.readers import Item
from services.stream.bus import Outgoing
from services.stream.topics import RAW

BATCH_TEXTS: Final = 2_000
BATCH_BYTES: Final = 1_000_000
FLUSH_S: Final = 0.3
"""How long a text from a pipe waits for company, and how long a paced batch takes."""


class Batch(NamedTuple):
    """Events to publish together, how many of them are texts, and the place after them; `last` at the source's end."""

    events: list[Outgoing]
    texts: int
    place: Place
    last: bool


def batches(items: Iterable[Item | None], name: str, start: Place, limit: int) -> Iterator[Batch]:
    """Batches of at most `limit` events and about `BATCH_BYTES`. None among the items: publish what there is.

    A batch is given out when the item after it is known to exist, so that the last one says that it is; an empty
    source gives one empty batch.
    """
    events: list[Outgoing] = []
    texts = size = 0
    place = start
    for item in items:
        if events and (item is None or len(events) >= limit or size >= BATCH_BYTES):
            yield Batch(events, texts, place, False)
            events, texts, size = [], 0, 0
        if item is not None:
            place, found = item
            event = outgoing(found, f"{name}:{place.line + place.half}")
            events.append(event)
            texts += event.topic == RAW
            size += len(event.value)
    yield Batch(events, texts, place, True)


def live(items: Iterator[Item], stop: threading.Event) -> Iterator[Item | None]:
    """The items of a pipe as they come, None where nothing came for `FLUSH_S`; ends when `stop` is set.

    A thread of its own reads: a blocked read can't be woken otherwise.
    """
    waiting: queue.Queue[Item | Exception | None] = queue.Queue(maxsize=2 * BATCH_TEXTS)

    def pump() -> None:
        try:
            for item in items:
                waiting.put(item)
            waiting.put(None)
        except Exception as error:
            waiting.put(error)

    threading.Thread(target=pump, name="pipe", daemon=True).start()
    while not stop.is_set():
        with suppress(queue.Empty):
            item = waiting.get(timeout=FLUSH_S)
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item
            continue
        yield None


class Pace:
    """Holds a run to `rate` texts per second; 0 lets it go."""

    def __init__(self, rate: float, stop: threading.Event) -> None:
        self._rate, self._stop = rate, stop
        self._due = time.monotonic()
        self.batch = min(BATCH_TEXTS, max(1, int(rate * FLUSH_S))) if rate else BATCH_TEXTS

    def after(self, count: int) -> None:
        """Wait until `count` texts may be followed by more."""
        if self._rate:
            self._due = max(self._due, time.monotonic() - FLUSH_S) + count / self._rate
            self._stop.wait(max(0.0, self._due - time.monotonic()))
