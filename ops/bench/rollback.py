"""After how many labels a worse champion is rolled back, against how much worse it is: `python -m ops.bench rollback`.

A run is one champion and the labels of the random share that come after its promotion, asked about after every one, as
the watch asks. The two models differ as was measured: between the bundled model and its first challenger in the demo
only one is right on 15 % of the anchor set and on 38 % of the desks' texts (decision 0018). And measured here: the
bundled model against copies of it made bad by force, on the measuring half of the anchor set, whose texts are then
drawn with their outcomes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final

import numpy as np
from scipy.stats import binomtest

from services.score import artifact
from services.score.engine import open_engine
from services.score.head import Head
from services.stream.events import LABELS
from services.trainer.anchors import anchors
from services.trainer.sequential import Watch

RUNS: Final = 500
LABELS_COME: Final = 20_000
"""At most; who isn't rolled back by then stays."""
DISAGREEMENTS: Final = (0.10, 0.15, 0.25, 0.38)
DROPS: Final = (-0.02, 0.0, 0.02, 0.03, 0.05, 0.10, 0.15)
"""How much worse the champion is; of more than the disagreement there is none."""

Broken = Callable[[Head, np.random.Generator], Head]
BROKEN: Final[dict[str, Broken]] = {
    "good and bad news confused": lambda head, _: _permuted(head, [2, 1, 0]),
    "labels moved on by one": lambda head, _: _permuted(head, [1, 2, 0]),
    "always positive": lambda head, _: head._replace(bias=head.bias + np.array([0, 0, 99], np.float32)),
    "random weights": lambda head, random: head._replace(
        weights=random.normal(0, head.weights.std(), head.weights.shape).astype(np.float32)
    ),
    "half of the hidden units lost": lambda head, random: head._replace(
        weights=head.weights * (random.random((len(head.weights), 1)) < 0.5).astype(np.float32)
    ),
}


def _permuted(head: Head, order: list[int]) -> Head:
    return head._replace(weights=head.weights[:, order].copy(), bias=head.bias[order].copy())


def run(runs: int = RUNS) -> dict[str, Any]:
    """Every setting, and after how many labels who is rolled back in it."""
    simulated = [
        {"disagreement": d, "drop": drop} | summary(alarms((d - drop) / 2, (d + drop) / 2, runs, [number, seed]))
        for number, d in enumerate(DISAGREEMENTS)
        for seed, drop in enumerate(DROPS)
        if drop <= d
    ]
    return {"labels": LABELS_COME, "simulated": simulated, "broken": broken(runs)}


def broken(runs: int) -> dict[str, Any]:
    """Models made bad by force: how bad each is on the anchor set, and how soon it is gone."""
    engine = open_engine(artifact.bundled(), device="cpu", threads=1)
    shipped = [anchor for anchor in anchors() if not anchor.replayed]
    features = engine.embed([anchor.text for anchor in shipped])
    truth = np.array([LABELS.index(anchor.label) for anchor in shipped])
    head, temperature = engine.model.head, engine.card.temperature
    assert isinstance(head, Head)

    def right(of: Head) -> np.ndarray:
        found: np.ndarray = of.probabilities(features, temperature).argmax(axis=1) == truth
        return found

    former, found = right(head), {}
    for number, (name, break_it) in enumerate(BROKEN.items()):
        now = right(break_it(head, np.random.default_rng(number)))
        won, lost = float(np.mean(now & ~former)), float(np.mean(former & ~now))
        figures = {"disagreement": won + lost, "drop": lost - won}
        found[name] = figures | summary(alarms(won, lost, runs, [99, number]))
    return found


def alarms(won: float, lost: float, runs: int, seed: list[int]) -> np.ndarray:
    """In each run the label at which the watch says worse, asked after every one; infinity where it never does. `won`
    and `lost` are the chances that the champion alone, or the former alone, is right."""
    random = np.random.default_rng(seed)
    found = np.full(runs, np.inf)
    for run in range(runs):
        draws = random.random(LABELS_COME)
        differ = np.flatnonzero(draws < won + lost)
        losses = np.cumsum(draws[differ] < lost)
        worse = np.flatnonzero(losses >= least(len(differ)))
        if len(worse):
            found[run] = differ[worse[0]] + 1
    return found


def least(pairs: int) -> np.ndarray:
    """int[pairs]: of 1, 2, … texts on which one alone is right, the losses at which the watch says worse."""
    return np.array(_least(LABELS_COME))[1 : pairs + 1]


@cache
def _least(pairs: int) -> list[int]:
    found = [1]
    for n in range(1, pairs + 1):
        losses = found[-1]
        while losses <= n and not Watch(n - losses, losses).worse():
            losses += 1
        found.append(losses)
    return found


def summary(found: np.ndarray) -> dict[str, Any]:
    """How many were rolled back, with the exact interval (Clopper & Pearson 1934), and after how many labels."""
    gone = np.sort(found[np.isfinite(found)])
    interval = binomtest(len(gone), len(found)).proportion_ci(method="exact")
    return {
        "runs": len(found),
        "rolled_back": len(gone),
        "share": len(gone) / len(found),
        "low": float(interval.low),
        "high": float(interval.high),
        "labels_median": _quantile(found, 0.5),
        "labels_90": _quantile(found, 0.9),
    }


def _quantile(found: np.ndarray, share: float) -> int | None:
    """Of all runs: labels by which this share is rolled back; None where it never is."""
    at = np.sort(found)[int(np.ceil(share * len(found))) - 1]
    return int(at) if np.isfinite(at) else None
