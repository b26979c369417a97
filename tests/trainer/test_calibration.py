"""Calibration on hand-made cases: what is calibrated, what is too sure of itself, and who is answered at a coverage."""

from __future__ import annotations

import numpy as np
import pytest

from services.score.head import softmax
from services.trainer.calibration import (
    BINS,
    calibrate,
    confidences,
    ece,
    ece_by_chance,
    measure,
    reliability,
    threshold,
)

N = 20_000


def drawn(n: int, spread: float = 2.0, seed: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits whose probabilities the labels are drawn by, those labels one-hot, and equal weights."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, spread, size=(n, 3)).astype(np.float32)
    labels = (random.random((n, 1)) > softmax(logits, 1).cumsum(axis=1)).sum(axis=1)
    return logits, np.eye(3, dtype=np.float32)[labels], np.ones(n, np.float32)


def test_it_finds_the_temperature() -> None:
    logits, targets, weights = drawn(N)
    assert calibrate(logits * 2.5, targets, weights) == pytest.approx(2.5, rel=0.05)


def test_as_many_texts_in_each_bin_by_rising_confidence() -> None:
    confidence = np.random.default_rng(1).permutation(np.linspace(0.4, 1, 1_000))
    bins = reliability(confidence, np.ones(1_000))
    assert len(bins) == BINS and {b.n for b in bins} == {66, 67}
    assert [b.confidence for b in bins] == sorted(b.confidence for b in bins)
    assert sum(b.n * b.confidence for b in bins) / 1_000 == pytest.approx(confidence.mean(), abs=1e-4)


def test_exactly_calibrated() -> None:
    confidence = np.repeat([0.5, 0.8], 10)
    right = np.array([1.0] * 5 + [0.0] * 5 + [1.0] * 8 + [0.0] * 2)
    bins = reliability(confidence, right)
    assert [(b.n, b.confidence, b.accuracy) for b in bins] == [(10, 0.5, 0.5), (10, 0.8, 0.8)]
    assert ece(bins) == pytest.approx(0)


def test_too_sure_of_itself() -> None:
    """Ten texts at 0.9 of which half are right, thirty at 0.6 of which as many are: (10 · 0.4 + 30 · 0) / 40."""
    confidence = np.repeat([0.9, 0.6], [10, 30])
    right = np.array([1.0] * 5 + [0.0] * 5 + [1.0] * 18 + [0.0] * 12)
    assert ece(reliability(confidence, right)) == pytest.approx(0.1)


def test_texts_of_one_confidence_share_a_bin_in_whatever_order_they_come() -> None:
    confidence, right = np.full(300, 0.7), np.arange(300) < 210
    (one,) = reliability(confidence, right)
    assert (one.n, one.accuracy) == (300, 0.7)
    mixed = np.random.default_rng(2).permutation(300)
    assert reliability(confidence[mixed], right[mixed]) == [one]


def test_fewer_texts_than_bins() -> None:
    assert [b.n for b in reliability(np.array([0.5, 0.6, 0.7]), np.ones(3))] == [1, 1, 1]


@pytest.mark.parametrize(("coverage", "answered"), [(0.9, 9), (0.5, 5), (0.85, 9), (1.0, 10), (0.01, 1)])
def test_the_threshold_gives_the_coverage(coverage: float, answered: int) -> None:
    confidence = np.array([0.91, 0.42, 0.83, 0.74, 0.65, 0.56, 0.97, 0.98, 0.99, 0.5])
    assert np.sum(confidence >= threshold(confidence, coverage)) == answered


def test_what_ties_at_the_threshold_is_answered() -> None:
    confidence = np.array([0.9, 0.5, 0.5, 0.5])
    assert threshold(confidence, 0.5) == 0.5
    assert threshold(np.array([0.123456]), 0.9) == 0.1234, "rounded down: nobody falls out by rounding"


def test_of_a_calibrated_model_no_more_error_is_measured_than_chance_gives() -> None:
    data = drawn(N)
    found = measure(*data, 1.0)
    assert found.ece < 0.01
    assert found.ece == pytest.approx(found.ece_by_chance, abs=0.004)
    assert found.answered.n + found.abstained.n == found.texts == N == sum(b.n for b in found.bins)
    assert found.answered.n / N == pytest.approx(found.coverage, abs=0.01)
    assert np.mean(confidences(data[0], 1.0) >= found.threshold) == pytest.approx(0.9, abs=0.001)
    assert found.answered.accuracy > found.abstained.accuracy + 0.2
    assert found.abstained.accuracy == pytest.approx(found.abstained.confidence, abs=0.03)


def test_a_temperature_mends_what_is_too_sure_of_itself() -> None:
    logits, targets, weights = drawn(N)
    right = targets[np.arange(N), logits.argmax(axis=1)]
    plain = ece(reliability(confidences(logits * 3, 1.0), right))
    found = measure(logits * 3, targets, weights, calibrate(logits * 3, targets, weights))
    assert plain > 0.1 > 10 * found.ece


def test_chance_gives_more_error_where_there_are_fewer_texts() -> None:
    few, many = (ece_by_chance(confidences(drawn(n)[0], 1.0)) for n in (300, 3_000))
    assert few > 2 * many > 0


def test_nobody_is_judged_by_what_was_fitted_on_it() -> None:
    """Every other text is what the model is wrong about: each half alone would ask for the opposite temperature."""
    logits, targets, weights = drawn(2_000)
    targets[1::2] = np.roll(np.eye(3, dtype=np.float32)[logits[1::2].argmax(axis=1)], 1, axis=1)
    targets[::2] = np.eye(3, dtype=np.float32)[logits[::2].argmax(axis=1)]
    assert measure(logits, targets, weights, 1.0).ece > 0.5


def test_a_shared_target_counts_by_its_share() -> None:
    logits = np.tile(np.array([[0, 0, 3]], np.float32), (10, 1))
    targets = np.tile(np.array([[0.25, 0, 0.75]], np.float32), (10, 1))
    assert measure(logits, targets, np.ones(10, np.float32), 1.0).answered.accuracy == 0.75


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_to_measure_by(n: int) -> None:
    with pytest.raises(ValueError, match=f"on {n} examples"):
        measure(*drawn(n), 1.0)
