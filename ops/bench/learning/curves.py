"""Accuracy by the number of labels that readers looked at: the review queue against chance, and what is forgotten.

A reader looks at a text and says what it is, right or wrong alike: a confirmation is a label, too. After every `STEP`
labels a challenger is fitted on all labels so far, from the champion, as the trainer does, and the queue goes by its
answers from then on. Both arms look at texts that may be learned from; what measures, is judged twice or is gold costs
both the same and isn't counted.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

import numpy as np
from scipy.optimize import isotonic_regression

from ops.bench.common import console
from ops.bench.learning.streams import Stream, Texts, challenger, right
from services.review import ranking
from services.review.ranking import Candidate
from services.score.head import Head
from services.stream.events import LABELS

STEP: Final = 50
MOST: Final = 1_000
SHOWN: Final = (0, 100, 250, 500, 1_000)
SKILL: Final = 0.95
"""Share of right labels; a wrong one is drawn evenly from the other two."""
RESAMPLES: Final = 2_000

Picker = Callable[[Texts, np.ndarray, Head, Random], np.ndarray]
"""(pool, bool[n] not yet looked at, the latest model) → int[STEP]."""


def run(stream: Stream, seeds: int) -> dict[str, Any]:
    """Both arms, `seeds` times, and once with all labels."""
    arms: dict[str, Picker] = {"random": _random, "queue": _queue}
    new = {name: np.zeros((seeds, MOST // STEP + 1)) for name in arms}
    old = {name: np.zeros((seeds, MOST // STEP + 1)) for name in arms}
    for seed in range(seeds):
        for name, pick in arms.items():
            new[name][seed], old[name][seed] = _curve(stream, pick, seed)
        console.print(f"  {stream.name}, seed {seed}: " + ", ".join(f"{n} {new[n][seed][-1]:.3f}" for n in arms))
    everything = challenger(stream, stream.champion, range(len(stream.pool.labels)), stream.pool.labels)
    at = [budget // STEP for budget in SHOWN]
    return {
        "tested": len(stream.new.labels),
        "pool": len(stream.pool.labels),
        "seeds": seeds,
        "accuracy": {name: dict(zip(SHOWN, _columns(found[:, at]), strict=True)) for name, found in new.items()},
        "everything": round(float(right(everything, stream.new).mean()), 4),
        "gain_at_500": summary(new["queue"][:, 500 // STEP] - new["queue"][:, 0]),
        "old_source": {name: dict(zip(SHOWN, _columns(found[:, at]), strict=True)) for name, found in old.items()},
        "forgotten": {name: summary(found[:, 0] - found[:, 500 // STEP]) for name, found in old.items()},
        "labels_for_randoms_500": _needed(new["queue"], new["random"]),
    }


def _curve(stream: Stream, pick: Picker, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy on the new source and on the old one, after 0, `STEP`, … labels."""
    random, skill = Random(seed), np.random.default_rng([seed, 1])
    said = _said(stream.pool.labels, skill)
    open_ = np.ones(len(stream.pool.labels), bool)
    head = stream.champion
    seen: list[int] = []
    points = [(right(head, stream.new).mean(), right(head, stream.old).mean())]
    while len(seen) < MOST:
        picked = pick(stream.pool, open_, head, random)
        open_[picked] = False
        seen += picked.tolist()
        head = challenger(stream, stream.champion, seen, said[seen], seed=seed)
        points.append((right(head, stream.new).mean(), right(head, stream.old).mean()))
    new, old = np.array(points).T
    return new, old


def _said(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """What readers of `SKILL` say."""
    slips = (labels + random.integers(1, len(LABELS), len(labels))) % len(LABELS)
    return np.where(random.random(len(labels)) < SKILL, labels, slips)


def _random(_: Texts, open_: np.ndarray, __: Head, random: Random) -> np.ndarray:
    return np.array(random.sample(np.flatnonzero(open_).tolist(), STEP))


def _queue(pool: Texts, open_: np.ndarray, head: Head, random: Random) -> np.ndarray:
    """What `services.review` would ask about, of what may be learned from and has no word yet."""
    numbers = np.flatnonzero(open_)
    probabilities = head.probabilities(pool.features[numbers], 1.0)
    candidates = [
        Candidate(str(n), str(n), LABELS[int(p.argmax())], ranking.margin(p.tolist()), (), False, False)
        for n, p in zip(numbers, probabilities, strict=True)
    ]
    unsure = ranking.uncertain(candidates)[: ranking.POOL * STEP]
    features = pool.features[[int(c.prediction_id) for c in unsure]]
    near = pool.features[np.flatnonzero(~open_)[-STEP:]]
    spread = [unsure[n] for n in ranking.far_apart(features, near, STEP)]
    return np.array([int(p.candidate.prediction_id) for p in ranking.queue(candidates, spread, STEP, random)])


def _needed(queue: np.ndarray, random: np.ndarray) -> dict[str, float]:
    """Labels of the queue's mean, monotone curve that reach what the other's has at 500, over 500; bootstrap over
    seeds."""
    draws = np.random.default_rng(0)

    def ratio(seeds: np.ndarray) -> float:
        goal = _monotone(random[seeds].mean(axis=0))[500 // STEP]
        curve = _monotone(queue[seeds].mean(axis=0))
        after = int(np.argmax(curve >= goal)) if curve[-1] >= goal else len(curve)
        if after in (0, len(curve)):
            return after * STEP / 500
        before, here = curve[after - 1], curve[after]
        return float((after - 1 + (goal - before) / (here - before)) * STEP / 500)

    every = np.arange(len(queue))
    found = [ratio(draws.choice(every, len(every))) for _ in range(RESAMPLES)]
    low, high = np.quantile(found, [0.025, 0.975])
    return {"share": round(ratio(every), 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def _monotone(curve: np.ndarray) -> np.ndarray:
    fitted: np.ndarray = isotonic_regression(curve).x
    return fitted


def _columns(columns: np.ndarray) -> list[dict[str, float]]:
    return [summary(column) for column in columns.T]


def summary(values: np.ndarray) -> dict[str, float]:
    """Mean, and its 95 % interval by Student's t; over seeds."""
    from scipy.stats import t

    reach = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0
    mean = float(values.mean())
    return {"mean": round(mean, 4), "low": round(mean - reach, 4), "high": round(mean + reach, 4)}
