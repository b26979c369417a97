"""Lanes: the most urgent first, batches filled from what waits, what is given up is not computed, bad texts alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError

import numpy as np
import pytest

from services.score.lanes import SMALL, Lanes, Priority, padded

BAD = 666


class Recorder:
    """Features are the sum of a text's ids; notes each batch; holds the first until told to go on."""

    device = "cpu"

    def __init__(self, *, held: bool = False, room: int = 1 << 30) -> None:
        self.batches: list[list[int]] = []
        self.begun, self.go_on = threading.Event(), threading.Event()
        self._room = room
        if not held:
            self.go_on.set()

    def run(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        self.begun.set()
        assert self.go_on.wait(10)
        if ids.size > self._room:
            raise MemoryError(f"{ids.size} tokens")
        self.batches.append([int(first) for first in ids[:, 0]])
        if (ids == BAD).any():
            raise ValueError("a bad text")
        return (ids * mask).sum(axis=1, keepdims=True).astype(np.float32)


def text(number: int, length: int = 4) -> list[int]:
    return [number, *[1] * (length - 1)]


def busy(encoder: Recorder, budget: int = 64) -> Lanes:
    """One lane, at work on a text of its own."""
    lanes = Lanes(encoder, budget, 1)
    lanes.submit([text(0)], Priority.STREAM)
    assert encoder.begun.wait(10)
    return lanes


def values(found: Sequence[np.ndarray] | np.ndarray) -> list[float]:
    return [float(row[0]) for row in found]


def test_answers_come_in_the_order_of_the_texts() -> None:
    texts = [text(number, length) for number, length in enumerate((9, 2, 30, 2, 7, 1, 64, 3))]
    found = Lanes(Recorder(), 64, 2).submit(texts, Priority.STREAM).result()
    assert values(found.features) == [sum(one) for one in texts]
    assert not found.failed


def test_no_texts_no_features() -> None:
    assert Lanes(Recorder(), 64, 1).submit([], Priority.STREAM).result().features.shape == (0, 0)


def test_the_urgent_goes_before_a_backlog() -> None:
    encoder = Recorder(held=True)
    lanes = busy(encoder)
    waiting = [
        lanes.submit([text(number, 64)], priority)
        for number, priority in [(1, Priority.BACKGROUND), (2, Priority.STREAM), (3, Priority.STREAM)]
    ]
    waiting.append(lanes.submit([text(4, 64)], Priority.INTERACTIVE))
    encoder.go_on.set()
    for pending in waiting:
        pending.result()
    assert encoder.batches == [[0], [4], [2], [3], [1]]


def test_what_waits_is_put_together_within_the_budget() -> None:
    encoder = Recorder(held=True)
    lanes = busy(encoder, budget=16)
    waiting = [lanes.submit([text(number)], Priority.STREAM) for number in range(1, 7)]
    encoder.go_on.set()
    assert [values(pending.result().features) for pending in waiting] == [[number + 3] for number in range(1, 7)]
    assert encoder.batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_a_short_text_may_fill_up_a_batch_that_a_long_one_may_not() -> None:
    encoder = Recorder(held=True)
    lanes = busy(encoder, budget=16)
    waiting = [lanes.submit([text(n, length)], Priority.STREAM) for n, length in ((1, 4), (2, 10), (3, 4))]
    encoder.go_on.set()
    for pending in waiting:
        pending.result()
    assert encoder.batches == [[0], [1, 3], [2]]


def test_texts_of_like_length_go_together() -> None:
    encoder = Recorder(held=True)
    lanes = busy(encoder, budget=16)
    waiting = [lanes.submit([text(n, length)], Priority.STREAM) for n, length in ((1, 4), (2, 8), (3, 4), (4, 8))]
    encoder.go_on.set()
    for pending in waiting:
        pending.result()
    assert encoder.batches == [[0], [1, 3], [2, 4]]


def test_the_urgent_fill_up_a_batch_before_those_of_like_length() -> None:
    encoder = Recorder(held=True)
    lanes = busy(encoder, budget=16)
    waiting = [
        lanes.submit([text(number, length)], priority)
        for number, length, priority in [
            (1, 4, Priority.INTERACTIVE), (2, 4, Priority.STREAM), (3, 8, Priority.INTERACTIVE)
        ]
    ]  # fmt: skip
    encoder.go_on.set()
    for pending in waiting:
        pending.result()
    assert encoder.batches == [[0], [1, 3], [2]]


def test_what_is_given_up_is_not_computed() -> None:
    encoder = Recorder(held=True)
    lanes = busy(encoder)
    dropped, kept = (lanes.submit([text(number)], Priority.STREAM) for number in (1, 2))
    dropped.cancel()
    encoder.go_on.set()
    assert values(kept.result().features) == [5]
    with pytest.raises(CancelledError):
        dropped.result()
    assert encoder.batches == [[0], [2]]


def test_a_text_that_breaks_its_batch_is_found_and_stands_alone() -> None:
    encoder = Recorder(held=True)
    lanes = busy(encoder, budget=512)
    one = lanes.submit([text(n) if n != 5 else text(BAD) for n in range(20)], Priority.STREAM)
    other = lanes.submit([text(n) for n in range(20)], Priority.STREAM)  # in the same batch
    encoder.go_on.set()
    found = one.result()
    assert list(found.failed) == [5]
    assert found.failed[5].reason == "encoder" and "a bad text" in found.failed[5].detail
    assert [value for n, value in enumerate(values(found.features)) if n != 5] == [n + 3 for n in range(20) if n != 5]
    assert other.result().failed == {}


def test_a_call_of_bad_texts_only_ends_too() -> None:
    found = Lanes(Recorder(), 64, 2).submit([text(BAD)] * 3, Priority.STREAM).result()
    assert sorted(found.failed) == [0, 1, 2]


def test_too_little_memory_halves_the_budget_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    encoder = Recorder(room=300)
    lanes = Lanes(encoder, 1_024, 1)
    texts = [text(n, 8) for n in range(256)]
    assert values(lanes.submit(texts, Priority.STREAM).result().features) == [n + 7 for n in range(256)]
    assert lanes.budget == SMALL * 2
    assert "out of memory on cpu, batches have 512 tokens from now on: 1024 tokens" in caplog.text
    encoder.batches.clear()
    lanes.submit(texts, Priority.STREAM).result()
    assert max(map(len, encoder.batches)) * 8 <= lanes.budget


def test_every_lane_has_work_when_little_is_there() -> None:
    encoder = Recorder()
    Lanes(encoder, 4_096, 4).submit([text(n, 32) for n in range(32)], Priority.STREAM).result()
    assert len(encoder.batches) == 4


def test_padding_is_masked() -> None:
    ids, mask = padded([[7, 8, 9], [5]])
    assert ids.tolist() == [[7, 8, 9], [5, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert ids.dtype == mask.dtype == np.int64
