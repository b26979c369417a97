"""The shadow: a challenger that scores a sample of what the champion just scored, into a topic of its own.

It is loaded and scores in a thread of its own, at the lowest priority and for a share of the time; what comes while it
is busy is left out. So it makes no backlog, and nothing that fails here reaches the stream.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Final, Literal

import msgspec

from services.runtime import now_ms
from services.score.engine import Engine
from services.score.lanes import Priority
from services.score.loading import Refused, loaded
from services.score.outcome import predicted
from services.stream import metrics, topics
from services.stream.bus import Bus, Outgoing, Record
from services.stream.errors import Fatal, Rejected, TickerloopError, Transient
from services.stream.events import CleanText, ModelChange, encode
from services.stream.loop import Backoff

TEXTS: Final = 64
"""Most texts of a piece of work: what slows the champion is over in a moment, and so is the rest that follows it."""
WAITING: Final = 4
"""Pieces that wait at most: enough for the shadow to have work when its rest is over."""

Batch = Sequence[tuple[CleanText, Record]]
"""Texts that the champion could score, with the records that they came in."""

log = logging.getLogger(__name__)


class State(msgspec.Struct, frozen=True):
    """What a scorer says of its shadow."""

    model: str
    epoch: int
    state: Literal["loading", "scoring", "refused"] = "loading"
    reason: str = ""
    failed: int = 0
    """Texts on which it failed, and the champion did not."""


class Duty:
    """Work for `share` of the time: after t seconds of it comes a rest of t · (1 / share − 1)."""

    def __init__(
        self, share: float, rest: Callable[[float], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._share, self._rest, self._clock = share, rest, clock

    @contextmanager
    def work(self) -> Iterator[None]:
        """Work, then rest, whether it succeeded or not."""
        began = self._clock()
        try:
            yield
        finally:
            self._rest((self._clock() - began) * (1 / self._share - 1))


class _Job:
    """One shadow from its beginning to its end; its thread alone changes its state."""

    def __init__(self, change: ModelChange) -> None:
        self.change = change
        self.state = State(change.version, change.epoch)
        self.batches: queue.Queue[Batch | None] = queue.Queue(WAITING)
        self.ended = threading.Event()

    def end(self) -> None:
        self.ended.set()
        with suppress(queue.Full):  # else it is at work, and looks before it takes another
            self.batches.put_nowait(None)

    def take(self) -> Batch | None:
        """The next batch; None once it is ended."""
        batch = None if self.ended.is_set() else self.batches.get()
        return None if self.ended.is_set() else batch


class Shadow:
    """Holds one challenger at most. `open_bus` opens the bus of this process that publishes."""

    def __init__(self, load: Callable[[str], Engine], open_bus: Callable[[], Bus], share: float) -> None:
        self._load, self._open_bus, self._share = load, open_bus, share
        self._turn = threading.Lock()
        self._job: _Job | None = None

    @property
    def state(self) -> State | None:
        """Of the one that shadows now."""
        return self._job.state if self._job else None

    def follow(self, change: ModelChange | None) -> None:
        """Begin with the model that `change` names, unless that goes on already, and end any other; None ends it."""
        if self._job is not None:
            if change is not None and change.epoch == self._job.change.epoch:
                return
            self._job.end()
        self._job = _Job(change) if change is not None else None
        if self._job is not None:
            threading.Thread(target=self._run, args=(self._job,), name="shadow", daemon=True).start()

    def offer(self, batch: Batch) -> None:
        """Give it a batch, of which it leaves out what it has no room for; returns at once."""
        job = self._job
        if job is None or job.state.state != "scoring":
            return
        for at in range(0, len(batch), TEXTS):
            piece = batch[at : at + TEXTS]
            try:
                job.batches.put_nowait(piece)
            except queue.Full:
                metrics.SHADOW_DROPPED.labels(job.change.version, "busy").inc(len(piece))

    def _run(self, job: _Job) -> None:
        with self._turn:  # two at once would take twice the memory, and publish under one name
            engine = self._loaded(job)
            if engine is None:
                return
            duty, backoff = Duty(self._share, job.ended.wait), Backoff(job.ended)
            with closing(self._open_bus()) as bus:
                while (batch := job.take()) is not None:
                    with duty.work():
                        failed = _score(engine, bus, job.change, batch, backoff)
                    if failed:
                        job.state = msgspec.structs.replace(job.state, failed=job.state.failed + failed)

    def _loaded(self, job: _Job) -> Engine | None:
        found = loaded(self._load, job.change.version, lambda: not job.ended.is_set(), Backoff(job.ended))
        if isinstance(found, Refused):
            job.state = msgspec.structs.replace(job.state, state="refused", reason=found.reason)
            return None
        if found is not None:
            job.state = msgspec.structs.replace(job.state, state="scoring")
            log.info("model %s shadows the champion, from epoch %d on", job.change.version, job.change.epoch)
        return found


def _score(engine: Engine, bus: Bus, change: ModelChange, batch: Batch, backoff: Backoff) -> int:
    """Score and publish a batch, or leave it out; on how many texts the model failed."""
    published = failed = 0
    try:
        answers = engine.score([text.text for text, _ in batch], Priority.BACKGROUND)
        at, languages = now_ms(), engine.card.languages
        events = [
            predicted(text, scored, record, change, at, languages)
            for (text, record), scored in zip(batch, answers, strict=True)
            if not isinstance(scored, Rejected)
        ]
        failed = len(batch) - len(events)
        if events:
            bus.publish([Outgoing(topics.SHADOW, event.text_id.encode(), encode(event)) for event in events])
        published = len(events)
        backoff.reset()
    except Exception as error:  # whatever it is, the stream goes on
        known = isinstance(error, TickerloopError)
        failed = failed if isinstance(error, Transient | Fatal) else len(batch)
        log.warning("the shadow %s leaves out %d texts: %s", change.version, len(batch), error, exc_info=not known)
        backoff.wait()
    metrics.SHADOW_SCORED.labels(change.version).inc(published)
    metrics.SHADOW_DROPPED.labels(change.version, "failed").inc(len(batch) - published)
    return failed
