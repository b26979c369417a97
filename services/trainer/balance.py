"""What each label counts in training, so that no class and no source drowns the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Final

import numpy as np

from services.trainer.dataset import Dataset, Labelled

MANY: Final = 5_000
"""Labels of one source that are taken in any case: more of the same add little and take time."""
TIMES: Final = 4
"""Beyond that it may have so many times as many as all others together. Its newest are taken."""
MOST: Final = 2.0
"""By how much at most a rare label counts more, or a frequent one less."""

OVER: Final = "beyond its source's share"


def balanced(data: Dataset) -> Dataset:
    """Cap each source, and weigh what is left by how rare its class and its source are; in the mean weights stay."""
    learn = _capped(data.learn)
    left_out = {OVER: len(data.learn) - len(learn)} if len(learn) < len(data.learn) else {}
    rarity = _rarity([e.label for e in learn]) * _rarity([e.source for e in learn])
    weights = np.clip(rarity, 1 / MOST, MOST)
    weights = weights / weights.mean() if learn else weights
    weighed = [e._replace(weight=e.weight * float(weight)) for e, weight in zip(learn, weights, strict=True)]
    return data._replace(learn=weighed, left_out={**data.left_out, **left_out})


def _capped(learn: list[Labelled]) -> list[Labelled]:
    sizes = Counter(e.source for e in learn)
    caps = {source: max(MANY, TIMES * (len(learn) - n)) for source, n in sizes.items()}
    taken: Counter[str] = Counter()
    kept = set()
    for e in sorted(learn, key=lambda e: (e.at, e.example_id), reverse=True):
        if taken[e.source] < caps[e.source]:
            taken[e.source] += 1
            kept.add(e.example_id)
    return [e for e in learn if e.example_id in kept]


def _rarity(values: Sequence[Hashable]) -> np.ndarray:
    """float[n]: the root of how much rarer a value is than the mean one. The root, since what is rare may be rare in
    truth."""
    counts = Counter(values)
    return np.sqrt([len(values) / len(counts) / counts[value] for value in values])
