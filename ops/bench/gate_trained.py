"""The gate over sequences of challengers that were really trained: `python -m ops.bench.gate_trained DIR`.

DIR holds the labelled sets of `tickerloop train --recipe bundled`. Heads over the untuned encoder learn from random
samples of some of the texts, of two sizes; the other texts are the population, so that each head's true accuracy is
known. A run draws a champion and, look after look, challengers that are as good as it (within 0.2 points) or 3 points
better (within 0.3), and of which one alone is right in at least 10 % of the texts; its holdout is drawn from the
population. All runs draw from the same heads. Writes var/bench/gate_trained.json.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from ops.bench.common import ROOT, console, machine, write
from ops.bench.gate import GROWTH, LOOKS, Ended, summary
from services.score.base import Encoding, find
from services.score.engine import embed, open_runtime
from services.stream.events import LABELS
from services.trainer import design, gate, recipe
from services.trainer.anchors import anchors
from services.trainer.gate import Evidence, Pair
from services.trainer.head import fit
from services.trainer.run import TRANSFER

RUNS: Final = 20
TEXTS: Final = 10_000
LEARNED: Final = 4_000
"""Texts that heads learn from; the others are the population."""
SIZES: Final = (250, 600)
HEADS: Final = 25
"""Of each size."""
LEAST_DISAGREEMENT: Final = 0.10


class Population(NamedTuple):
    """Who is right: bool[heads, texts] on the population and on the anchor set, with the population's slices."""

    right: np.ndarray
    anchor: np.ndarray
    parts: dict[str, np.ndarray]


def main(data: Path) -> None:
    """Train, run, write."""
    population = _train(data)
    figures: dict[str, Any] = {"looks": LOOKS, "growth": GROWTH, "heads": len(population.right)}
    for name, gain, within in (("equal", 0.0, 0.002), ("better", design.GAIN, 0.003)):
        ended, disagreements = [], []
        for number in range(RUNS):
            random = np.random.default_rng([number, int(1000 * gain)])
            champion, challengers = _drawn(population, gain, within, random)
            differ = population.right[challengers] != population.right[champion]
            disagreements.append(float(np.mean(differ)))
            ended.append(_run(population, champion, challengers, random))
        figures[name] = summary(ended) | {"disagreement": float(np.mean(disagreements))}
    path = write("gate_trained", figures, machine())
    console.print(msgspec.json.format(msgspec.json.encode(figures), indent=2).decode())
    console.print(f"written to {path.relative_to(ROOT)}")


def _train(data: Path) -> Population:
    split = recipe.read(data, ("tfns", "sentfin"))
    random = np.random.default_rng(1)
    clear = [e for e in split.learn if max(e.target) == 1]
    examples = [clear[number] for number in random.permutation(len(clear))[:TEXTS]]
    shipped = [anchor for anchor in anchors() if not anchor.replayed]
    runtime = open_runtime(Encoding(find()), device="cpu", cache=ROOT / "var" / "models")
    console.print(f"embedding {len(examples)} texts")
    features, anchored = (embed(runtime, texts) for texts in ([e.text for e in examples], [a.text for a in shipped]))
    labels, targets = np.array([e.label for e in examples]), recipe.targets(examples)
    truth = np.array([LABELS.index(a.label) for a in shipped])
    right, anchor = [], []
    for number in range(HEADS * len(SIZES)):
        size = SIZES[number % len(SIZES)]
        sample = random.choice(LEARNED, size, replace=False)
        head = fit(features[sample], targets[sample], np.ones(size, np.float32), seed=number, schedule=TRANSFER)
        right.append(head.logits(features[LEARNED:]).argmax(axis=1) == labels[LEARNED:])
        anchor.append(head.logits(anchored).argmax(axis=1) == truth)
        console.print(f"head {number}, of {size} texts: {np.mean(right[-1]):.1%}")
    sources = np.array([e.source for e in examples[LEARNED:]])
    parts = {f"class {label}": labels[LEARNED:] == k for k, label in enumerate(LABELS)}
    parts |= {f"source {source}": sources == source for source in sorted(set(sources))}
    return Population(np.array(right), np.array(anchor), parts)


def _drawn(population: Population, gain: float, within: float, random: np.random.Generator) -> tuple[int, np.ndarray]:
    """A champion, and all that may challenge it; champions with fewer than three are passed over."""
    true = population.right.mean(axis=1)
    while True:
        champion = int(random.integers(len(true)))
        differ = np.mean(population.right != population.right[champion], axis=1)
        fitting = (np.abs(true - true[champion] - gain) <= within) & (differ >= LEAST_DISAGREEMENT)
        if np.sum(fitting) >= 3:
            return champion, np.flatnonzero(fitting)


def _run(population: Population, champion: int, challengers: np.ndarray, random: np.random.Generator) -> Ended:
    holdout = random.integers(population.right.shape[1], size=LOOKS * GROWTH)
    vetoed = False
    for look in range(1, LOOKS + 1):
        challenger = int(random.choice(challengers))
        seen = holdout[: look * GROWTH]
        held_out = Pair(population.right[champion][seen], population.right[challenger][seen])
        anchor = Pair(population.anchor[champion], population.anchor[challenger])
        parts = {name: mask[seen] for name, mask in population.parts.items()}
        verdict = gate.judge(Evidence(held_out, anchor, parts), look)
        if verdict.promote:
            return Ended(look, vetoed, population.right[challenger], len(seen))
        vetoed |= verdict.p_value <= verdict.alpha
    return Ended(0, vetoed, population.right[champion], len(holdout))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
