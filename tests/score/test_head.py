"""Fitting a head: deterministic, learns, respects weights and soft targets, and keeps what its parent knew."""

from __future__ import annotations

import numpy as np
import pytest

from services.score.engine import Engine
from services.score.head import to_bytes
from services.stream.events import LABELS
from services.trainer.anchors import anchors
from services.trainer.head import fit

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


def test_replaying_only_the_parents_answers_changes_nothing(engine: Engine) -> None:
    parent = engine.model.head
    live = engine.embed([anchor.text for anchor in anchors()[:300]])
    child = fit(live, parent.probabilities(live, 1), np.ones(300, np.float32), init=parent)
    assert np.abs(child.logits(live) - parent.logits(live)).max() < 0.05


def test_replaying_the_parents_answers_keeps_them_beside_corrections(engine: Engine) -> None:
    features = engine.embed([anchor.text for anchor in anchors()])
    truth = np.array([LABELS.index(anchor.label) for anchor in anchors()])
    # A parent that calls most good news neutral: the bundled one knows the anchors too well to be wrong that often.
    blind = np.random.default_rng(3).random(len(truth)) < 0.8
    taught = np.where((truth == LABELS.index("positive")) & blind, LABELS.index("neutral"), truth)
    parent = fit(features, np.eye(3)[taught], np.ones(len(taught), np.float32), seed=3)
    answers = parent.probabilities(features, 1)
    wrong = np.flatnonzero(answers.argmax(axis=1) != truth)[:100]
    live = np.setdiff1d(np.arange(len(truth)), wrong)[:500]

    def child(replayed: bool) -> tuple[float, float]:
        rows = np.concatenate([wrong, live]) if replayed else wrong
        targets = np.where(np.isin(rows, wrong)[:, None], np.eye(3)[truth[rows]], answers[rows])
        head = fit(features[rows], targets, np.ones(len(rows), np.float32), init=parent)
        found = head.logits(features).argmax(axis=1)
        return float(np.mean(found[live] == answers[live].argmax(axis=1))), float(np.mean(found[wrong] == truth[wrong]))

    kept, learned = child(replayed=True)
    assert learned > 0.9
    assert kept > 0.9
    assert kept > child(replayed=False)[0] + 0.1


@pytest.mark.parametrize("n", [0, 3])
def test_arrays_that_do_not_fit_are_refused(n: int) -> None:
    features, targets, weights = problem(5)
    with pytest.raises(ValueError, match="features"):
        fit(features[:n], targets[:n], weights[: max(0, n - 1)])
