"""Fitting a head: deterministic, learns, respects weights and soft targets, and keeps what its parent knew."""

from __future__ import annotations

import numpy as np
import pytest

from services.score.head import softmax, to_bytes
from services.trainer.head import calibrate, fit

TRUTH = np.random.default_rng(3).normal(size=(20, 3))


def problem(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features float32[n, 20], one-hot targets that a linear rule gives, equal weights."""
    features = np.random.default_rng(seed).normal(2, 3, size=(n, 20)).astype(np.float32)
    labels = ((features - 2) @ TRUTH).argmax(axis=1)
    return features, np.eye(3, dtype=np.float32)[labels], np.ones(n, np.float32)


def test_equal_input_and_seed_give_equal_bytes() -> None:
    data = problem(300)
    assert to_bytes(fit(*data, seed=1)) == to_bytes(fit(*data, seed=1))
    assert to_bytes(fit(*data, seed=1)) != to_bytes(fit(*data, seed=2))


def test_it_learns() -> None:
    head = fit(*problem(3_000))
    features, targets, _ = problem(500, seed=1)
    assert np.mean(head.logits(features).argmax(axis=1) == targets.argmax(axis=1)) > 0.75


def test_weights_decide_between_contradicting_examples() -> None:
    features, targets, weights = problem(1_500)
    other = np.roll(targets, 1, axis=1)
    both = np.concatenate([features, features]), np.concatenate([targets, other])
    head = fit(*both, np.concatenate([weights, weights * 0.05]))
    assert np.mean(head.logits(features).argmax(axis=1) == targets.argmax(axis=1)) > 0.75


def test_soft_targets_are_met() -> None:
    features, _, weights = problem(1_000)
    soft = np.tile(np.array([0.2, 0.5, 0.3], np.float32), (1_000, 1))
    assert fit(features, soft, weights).probabilities(features, 1).mean(axis=0) == pytest.approx(soft[0], abs=0.03)


def test_replaying_only_the_parents_answers_changes_nothing() -> None:
    parent = fit(*problem(1_000))
    live, _, weights = problem(300, seed=1)
    child = fit(live, parent.probabilities(live, 1), weights, init=parent)
    assert np.abs(child.logits(live) - parent.logits(live)).max() < 1e-2


def test_replaying_the_parents_answers_keeps_them_beside_corrections() -> None:
    parent = fit(*problem(3_000))
    live = problem(500, seed=1)[0]
    answers = parent.probabilities(live, 1)
    # Corrections on a corner of the features: there everything is of the class that the parent sees least now.
    corner = problem(100, seed=2)[0]
    corner[:, 0] += 25
    before = parent.logits(corner).argmax(axis=1)
    label = int(np.bincount(before, minlength=3).argmin())
    corrected = np.eye(3, dtype=np.float32)[np.full(100, label)]

    def child(replayed: bool) -> tuple[float, float]:
        features = np.concatenate([corner, live]) if replayed else corner
        targets = np.concatenate([corrected, answers]) if replayed else corrected
        head = fit(features, targets, np.ones(len(features), np.float32), init=parent)
        same = np.mean(head.logits(live).argmax(axis=1) == answers.argmax(axis=1))
        return float(same), float(np.mean(head.logits(corner).argmax(axis=1) == label))

    kept, learned = child(replayed=True)
    assert learned > np.mean(before == label) + 0.2
    assert kept > child(replayed=False)[0] + 0.05
    assert kept > 0.9


def test_calibration_finds_the_temperature() -> None:
    random = np.random.default_rng(5)
    logits = random.normal(0, 2, size=(20_000, 3)).astype(np.float32)
    truth = softmax(logits, 1).cumsum(axis=1)
    labels = (random.random((20_000, 1)) > truth).sum(axis=1)
    targets = np.eye(3, dtype=np.float32)[labels]
    found = calibrate(logits * 2.5, targets, np.ones(20_000, np.float32))
    assert found == pytest.approx(2.5, rel=0.05)


@pytest.mark.parametrize("n", [0, 3])
def test_arrays_that_do_not_fit_are_refused(n: int) -> None:
    features, targets, weights = problem(5)
    with pytest.raises(ValueError, match="features"):
        fit(features[:n], targets[:n], weights[: max(0, n - 1)])
