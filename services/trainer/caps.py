"""No source drowns the others: of one that floods, the newest labels are taken.

Every label taken counts alike, and so do the anchor texts that are replayed beside them, in which classes are balanced.
To count labels more where their class or their source is rare gained nothing or cost accuracy, and so did to count old
ones less (ops/decisions/0021-dataset.md).
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from services.trainer.dataset import Dataset

MANY: Final = 5_000
"""Labels of one source that are taken in any case: more of the same add little and take time."""
TIMES: Final = 4
"""Beyond that it may have so many times as many as all others together."""

OVER: Final = "beyond its source's share"


def capped(data: Dataset) -> Dataset:
    """Leave out of each source what is beyond its share, the oldest by event time."""
    sizes = Counter(e.source for e in data.learn)
    room = {source: max(MANY, TIMES * (len(data.learn) - n)) for source, n in sizes.items()}
    kept = set()
    for e in sorted(data.learn, key=lambda e: (e.at, e.example_id), reverse=True):
        if room[e.source]:
            room[e.source] -= 1
            kept.add(e.example_id)
    if len(kept) == len(data.learn):
        return data
    left_out = {**data.left_out, OVER: len(data.learn) - len(kept)}
    return data._replace(learn=[e for e in data.learn if e.example_id in kept], left_out=left_out)
