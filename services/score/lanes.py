"""Lanes: threads that put batches through the encoder side by side, the most urgent first.

Nothing waits while a lane is idle; while all are busy, what comes in is put together. So batches are as large as the
load makes them, up to the budget, and no delay has to be chosen.
"""

from __future__ import annotations

import itertools
import logging
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from enum import IntEnum
from typing import Final, NamedTuple, Protocol

import numpy as np

from services.score.batching import plan
from services.stream.errors import Rejected

SMALL: Final = 128
"""Tokens below which a batch is split neither for a free lane nor for want of memory."""

log = logging.getLogger(__name__)


class Priority(IntEnum):
    """Who goes first. A batch under way is not interrupted: it takes milliseconds."""

    INTERACTIVE = 0
    STREAM = 1
    BACKGROUND = 2


class Encoder(Protocol):
    """Something that turns tokens into features."""

    @property
    def device(self) -> str:
        """`cpu` or `cuda`."""

    def run(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """int64[n, t] twice → float32[n, d]; a row depends on nothing but its own text.

        Raises:
            MemoryError: the batch is too large for the device.
        """


class Encoded(NamedTuple):
    """Features float32[n, d] of n texts; of one in `failed`, by index, they mean nothing."""

    features: np.ndarray
    failed: dict[int, Rejected]


class Pending:
    """Features to come. Whoever waits no longer cancels, and what hasn't begun is never computed."""

    def __init__(self, size: int, parts: Sequence[tuple[Sequence[int], Future[Encoded]]]) -> None:
        self._size = size
        self._parts = parts

    def cancel(self) -> None:
        """Give up what no lane has taken yet."""
        for _, future in self._parts:
            future.cancel()

    def result(self) -> Encoded:
        """Wait for all.

        Raises:
            CancelledError: it was given up.
        """
        found = [(batch, future.result()) for batch, future in self._parts]
        width = max((encoded.features.shape[1] for _, encoded in found), default=0)
        features = np.zeros((self._size, width), np.float32)
        failed: dict[int, Rejected] = {}
        for batch, encoded in found:
            features[list(batch), : encoded.features.shape[1]] = encoded.features
            failed |= {batch[row]: why for row, why in encoded.failed.items()}
        return Encoded(features, failed)


class _Job(NamedTuple):
    ids: Sequence[Sequence[int]]
    width: int
    future: Future[Encoded]


class _Queue:
    """Batches that wait for a lane."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._waiting: list[tuple[Priority, int, _Job]] = []
        self._numbers = itertools.count()
        self._closed = False

    def put(self, jobs: Sequence[_Job], priority: Priority) -> None:
        """Queue batches."""
        with self.changed:
            self._waiting += [(priority, next(self._numbers), job) for job in jobs]
            self._waiting.sort()
            self.changed.notify(len(jobs))

    def wait(self) -> bool:
        """Until something waits; False once it is closed."""
        with self.changed:
            while not self._waiting and not self._closed:
                self.changed.wait()
            return not self._closed

    def take(self, budget: int) -> list[_Job]:
        """The most urgent batch, filled up with what fits of those that wait too."""
        with self.changed:
            taken: list[_Job] = []
            left = []
            texts = width = 0
            for entry in self._waiting:
                job = entry[-1]
                size = (texts + len(job.ids)) * max(width, job.width)
                if taken and size > budget:
                    left.append(entry)
                elif job.future.set_running_or_notify_cancel():
                    taken.append(job)
                    texts, width = texts + len(job.ids), max(width, job.width)
            self._waiting = left
            return taken

    def close(self) -> None:
        """End the lanes."""
        with self.changed:
            self._closed = True
            self.changed.notify_all()


def _work(lanes: weakref.ref[Lanes], queue: _Queue) -> None:
    while queue.wait():
        if (found := lanes()) is not None:
            found.step()
        del found  # not held while waiting


class Lanes:
    """One encoder's batches. `budget` is the most tokens of a batch, padding included; `count` of them run at once."""

    def __init__(self, encoder: Encoder, budget: int, count: int) -> None:
        self.encoder, self.budget, self.count = encoder, budget, count
        self._queue = _Queue()
        for number in range(count):
            arguments = (weakref.ref(self), self._queue)
            threading.Thread(target=_work, args=arguments, name=f"lane-{number}", daemon=True).start()
        # An idle lane's thread knows the queue only: with the last engine over it, an encoder is freed.
        weakref.finalize(self, self._queue.close).atexit = False

    def submit(self, ids: Sequence[Sequence[int]], priority: Priority) -> Pending:
        """Hand in texts as token ids, none of them empty."""
        lengths = list(map(len, ids))
        # What keeps every lane busy when this is all there is.
        share = min(self.budget, max(SMALL, -(-sum(lengths) // self.count)))
        jobs = [
            (batch, _Job([ids[index] for index in batch], lengths[batch[-1]], Future()))
            for batch in plan(lengths, share)
        ]
        self._queue.put([job for _, job in jobs], priority)
        return Pending(len(ids), [(batch, job.future) for batch, job in jobs])

    def step(self) -> None:
        """Answer one batch, where another lane hasn't taken all that waits."""
        jobs = self._queue.take(self.budget)
        if not jobs:
            return
        found = self._encode([ids for job in jobs for ids in job.ids])
        at = 0
        for job in jobs:
            end = at + len(job.ids)
            failed = {index - at: why for index, why in found.failed.items() if at <= index < end}
            job.future.set_result(Encoded(found.features[at:end], failed))
            at = end

    def _encode(self, ids: Sequence[Sequence[int]]) -> Encoded:
        """A batch that breaks is halved until the text that breaks it stands alone."""
        try:
            return Encoded(self.encoder.run(*padded(ids)), {})
        except Exception as error:  # whatever the runtime raises: only halving can tell which text it was
            if isinstance(error, MemoryError):
                self._less(error)
            if len(ids) == 1:
                why = Rejected("encoder", f"{type(error).__name__}: {error}")
                return Encoded(np.zeros((1, 0), np.float32), {0: why})
        half = len(ids) // 2
        one, other = self._encode(ids[:half]), self._encode(ids[half:])
        width = max(one.features.shape[1], other.features.shape[1])
        features = np.zeros((len(ids), width), np.float32)
        for rows, part in ((slice(0, half), one), (slice(half, None), other)):
            features[rows, : part.features.shape[1]] = part.features
        return Encoded(features, one.failed | {half + index: why for index, why in other.failed.items()})

    def _less(self, error: MemoryError) -> None:
        with self._queue.changed:
            self.budget = max(SMALL, self.budget // 2)
        log.warning(
            "out of memory on %s, batches have %d tokens from now on: %s", self.encoder.device, self.budget, error
        )


def padded(ids: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """int64[n, t] twice: ids, and a mask that is 1 on tokens."""
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
    matrix = np.zeros_like(mask)
    matrix[mask.astype(bool)] = np.concatenate(ids)
    return matrix, mask
