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
from services.score.tokens import MAX_TOKENS
from services.stream.errors import Misconfigured, Rejected

SMALL: Final = 128
"""Tokens below which a batch is split neither for a free lane nor for want of memory."""
LENGTHS: Final = (8, 16, 32, 64, 128, MAX_TOKENS)
"""Tokens of the texts that warm an encoder: the lengths that batches are made of."""

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
    lanes: Lanes
    ids: Sequence[Sequence[int]]
    width: int
    future: Future[Encoded]

    @property
    def size(self) -> int:
        return len(self.ids) * self.width


class _Queue:
    """Batches that wait for a lane. Each holds its `Lanes`, which so live until the last is answered."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._waiting: list[tuple[Priority, int, _Job]] = []
        self._numbers = itertools.count()
        self._idle = 0
        self._closed = False

    def put(self, jobs: Sequence[_Job], priority: Priority) -> None:
        """Queue batches."""
        with self.changed:
            self._waiting += [(priority, next(self._numbers), job) for job in jobs]
            self._waiting.sort()
            self.changed.notify(len(jobs))

    def take(self) -> list[_Job] | None:
        """The most urgent batch, filled up with what fits of those that wait too, of like length first, so that little
        is padded; None once it is closed."""
        with self.changed:
            self._idle += 1
            while not self._waiting and not self._closed:
                self.changed.wait()
            self._idle -= 1
            if self._closed:
                return None
            first = self._waiting[0][-1]
            room = first.lanes.share(sum(job.size for *_, job in self._waiting), self._idle + 1)
            others = sorted(self._waiting[1:], key=lambda entry: (entry[0], abs(entry[-1].width - first.width)))
            taken: list[_Job] = []
            left = []
            texts = width = 0
            for entry in (self._waiting[0], *others):
                job = entry[-1]
                size = (texts + len(job.ids)) * max(width, job.width)
                if taken and size > room:
                    left.append(entry)
                elif job.future.set_running_or_notify_cancel():
                    taken.append(job)
                    texts, width = texts + len(job.ids), max(width, job.width)
            self._waiting = sorted(left)
            return taken

    def close(self) -> None:
        """End the lanes."""
        with self.changed:
            self._closed = True
            self.changed.notify_all()


def _work(queue: _Queue) -> None:
    while (jobs := queue.take()) is not None:
        if jobs:
            jobs[0].lanes.answer(jobs)
        del jobs  # not held while waiting


class Lanes:
    """One encoder's batches. `budget` is the most tokens of a batch, padding included; `count` of them run at once."""

    def __init__(self, encoder: Encoder, budget: int, count: int) -> None:
        self.encoder, self.budget, self.count = encoder, budget, count
        self._queue = _Queue()
        for number in range(count):
            threading.Thread(target=_work, args=(self._queue,), name=f"lane-{number}", daemon=True).start()
        # An idle lane's thread knows the queue only: with the last engine over it, an encoder is freed.
        weakref.finalize(self, self._queue.close).atexit = False

    def submit(self, ids: Sequence[Sequence[int]], priority: Priority) -> Pending:
        """Hand in texts as token ids, none of them empty."""
        lengths = list(map(len, ids))
        jobs = [
            (batch, _Job(self, [ids[index] for index in batch], lengths[batch[-1]], Future()))
            for batch in plan(lengths, self.share(sum(lengths), self.count))
        ]
        self._queue.put([job for _, job in jobs], priority)
        return Pending(len(ids), [(batch, job.future) for batch, job in jobs])

    def warm(self, tokens: Sequence[int], most: int) -> None:
        """Put a text of each of `LENGTHS` up to `most`, made of `tokens` over and over, through every lane.

        Raises:
            Misconfigured: the encoder fails on one.
        """
        for length in sorted({min(length, most) for length in LENGTHS}):
            text = list(itertools.islice(itertools.cycle(tokens), length))
            for pending in [self.submit([text], Priority.STREAM) for _ in range(self.count)]:
                for why in pending.result().failed.values():
                    raise Misconfigured(f"the encoder fails on a text of {length} tokens: {why}")

    def share(self, tokens: int, lanes: int) -> int:
        """A batch's size that leaves some for every one of `lanes`."""
        return min(self.budget, max(SMALL, -(-tokens // lanes)))

    def answer(self, jobs: Sequence[_Job]) -> None:
        """Put a batch through the encoder; for the lanes' own threads."""
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
                self._less(error, len(ids) * max(map(len, ids)))
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

    def _less(self, error: MemoryError, tokens: int) -> None:
        """Half of what was too much; batches that were planned before don't count again."""
        with self._queue.changed:
            if tokens // 2 >= self.budget or self.budget == SMALL:
                return
            self.budget = max(SMALL, tokens // 2)
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
