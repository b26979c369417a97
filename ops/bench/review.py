"""Does the review queue's choice pay? `python -m ops.bench.review DIR`.

DIR holds the labelled sets of `tickerloop train --recipe bundled`. A champion has learned from TFNS alone, over the
untuned encoder; SEntFiN is the new source. For each seed 3,000 of its texts are set aside to measure, the others wait
for a label. Each strategy picks 500 of them in steps; after each step a head is fitted as the trainer fits it, from the
champion, with the replayed anchors and the champion's own answers. A step of 100 means a model that is promoted often,
one of 500 a model that never was. Writes var/bench/review.json.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from ops.bench.common import ROOT, console, machine, write
from services.review.ranking import POOL, far_apart
from services.score.base import Encoding, find
from services.score.engine import embed, open_runtime
from services.score.head import Head
from services.stream.events import LABELS
from services.trainer import recipe
from services.trainer.anchors import anchors
from services.trainer.dataset import LIVE_REPLAY, LIVE_WEIGHT, REPLAY_WEIGHT
from services.trainer.head import fit

SEEDS: Final = 20
MEASURED: Final = 3_000
BUDGET: Final = 500
STEPS: Final = (100, 500)


class Sets(NamedTuple):
    """Features float32[n, d] and labels int[n] of the new source and of the replayed anchors, and the champion."""

    texts: np.ndarray
    labels: np.ndarray
    anchors: np.ndarray
    anchor_labels: np.ndarray
    champion: Head


Strategy = Callable[[np.ndarray, np.ndarray, np.ndarray, int, np.random.Generator], np.ndarray]
"""(probabilities float[n, 3], features float32[n, d], features of what was looked at, k, random) → int[k]."""


def even(p: np.ndarray, _: np.ndarray, __: np.ndarray, k: int, random: np.random.Generator) -> np.ndarray:
    """Random picking."""
    return random.choice(len(p), k, replace=False)


def entropy(p: np.ndarray, _: np.ndarray, __: np.ndarray, k: int, ___: np.random.Generator) -> np.ndarray:
    """The greatest entropy."""
    return np.argsort((p * np.log(p + 1e-12)).sum(axis=1))[:k]


def margin(p: np.ndarray, _: np.ndarray, __: np.ndarray, k: int, ___: np.random.Generator) -> np.ndarray:
    """The least margin."""
    ordered = np.sort(p, axis=1)
    return np.argsort(ordered[:, 2] - ordered[:, 1])[:k]


def spread(p: np.ndarray, x: np.ndarray, near: np.ndarray, k: int, random: np.random.Generator) -> np.ndarray:
    """As the queue does it: of those of least margin, the ones far apart."""
    top = margin(p, x, near, POOL * k, random)
    return top[far_apart(x[top], near, k)]


def badge(p: np.ndarray, x: np.ndarray, _: np.ndarray, k: int, random: np.random.Generator) -> np.ndarray:
    """k-means++ over the gradients of the last layer (Ash, Zhang, Krishnamurthy, Langford, Agarwal 2020)."""
    away = p - np.eye(3)[p.argmax(axis=1)]
    norm = np.square(away).sum(axis=1) * np.square(x).sum(axis=1)
    chosen = [int(norm.argmax())]
    distance = np.full(len(p), np.inf)
    while True:
        last = chosen[-1]
        np.minimum(distance, norm + norm[last] - 2 * (away @ away[last]) * (x @ x[last]), out=distance)
        distance[chosen] = 0
        if len(chosen) == k:
            return np.array(chosen)
        weights = np.maximum(distance, 0)
        chosen.append(int(random.choice(len(p), p=weights / weights.sum())))


STRATEGIES: Final[dict[str, Strategy]] = {
    "random": even, "entropy": entropy, "margin": margin, "margin, spread": spread, "BADGE": badge,
}  # fmt: skip


def main(data: Path) -> None:
    """Run and write."""
    sets = _sets(data)
    figures: dict[str, Any] = {"seeds": SEEDS, "measured": MEASURED}
    for step in STEPS:
        for name, strategy in STRATEGIES.items():
            curves = np.array([_curve(sets, strategy, step, seed) for seed in range(SEEDS)])
            half = 2.09 * curves.std(axis=0, ddof=1) / SEEDS**0.5  # Student's t, 19 degrees of freedom
            figures[f"{name}, by {step}"] = {"accuracy": curves.mean(axis=0).tolist(), "half_interval": half.tolist()}
            console.print(f"{name}, by {step}: {' '.join(f'{a:.3f}' for a in curves.mean(axis=0))}")
    path = write("review", figures, machine())
    console.print(msgspec.json.format(msgspec.json.encode(figures), indent=2).decode())
    console.print(f"written to {path.relative_to(ROOT)}")


def _sets(data: Path) -> Sets:
    old, new = ([e for e in recipe.read(data, (s,)).learn if max(e.target) == 1] for s in ("tfns", "sentfin"))
    shipped = [anchor for anchor in anchors() if anchor.replayed]
    runtime = open_runtime(Encoding(find()), device="cpu", threads=1, cache=ROOT / "var" / "models")
    known, texts, replayed = (
        embed(runtime, part) for part in ([e.text for e in old], [e.text for e in new], [a.text for a in shipped])
    )
    champion = fit(known, recipe.targets(old), recipe.weights(old), seed=1)
    return Sets(
        texts, np.array([e.label for e in new]), replayed, np.array([LABELS.index(a.label) for a in shipped]), champion
    )


def _curve(sets: Sets, strategy: Strategy, step: int, seed: int) -> list[float]:
    """Accuracy at 0, step, 2 step, ... labels."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(sets.texts))
    apart, pool = order[:MEASURED], order[MEASURED:]
    live = random.choice(pool, LIVE_REPLAY, replace=False)
    scaled = ((sets.texts - sets.champion.mean) / sets.champion.scale).astype(np.float32)
    seen = np.zeros(0, int)
    head = sets.champion
    curve = [_accuracy(sets, head, apart)]
    while len(seen) < BUDGET:
        left = np.setdiff1d(pool, seen)
        picked = strategy(head.probabilities(sets.texts[left], 1.0), scaled[left], scaled[seen[-100:]], step, random)
        seen = np.concatenate([seen, left[picked]])
        head = _fitted(sets, seen, live, seed)
        curve.append(_accuracy(sets, head, apart))
    return curve


def _fitted(sets: Sets, seen: np.ndarray, live: np.ndarray, seed: int) -> Head:
    people = np.eye(3, dtype=np.float32)[np.concatenate([sets.labels[seen], sets.anchor_labels])]
    features = np.concatenate([sets.texts[seen], sets.anchors, sets.texts[live]])
    own = sets.champion.probabilities(sets.texts[live], 1.0).astype(np.float32)
    weights = np.repeat(
        np.array([1.0, REPLAY_WEIGHT, LIVE_WEIGHT], np.float32), [len(seen), len(sets.anchors), len(live)]
    )
    return fit(features, np.concatenate([people, own]), weights, init=sets.champion, seed=seed)


def _accuracy(sets: Sets, head: Head, rows: np.ndarray) -> float:
    return float(np.mean(head.logits(sets.texts[rows]).argmax(axis=1) == sets.labels[rows]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
