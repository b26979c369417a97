"""How far a champion's stream has moved from what it was when it began: in confidence, labels, languages and sources.

The population stability index, Σ (q − p) · ln(q / p) over the shares p and q of at most ten bins, measures how far,
not how surely: by the usual reading a shift is none below 0.1 and large above 0.25 (Siddiqi 2006, "Credit Risk
Scorecards"). Two windows of n independent texts of one stream differ by 2/n · χ² with 9 degrees of freedom (Yurdakul &
Naranjo 2020): at `WINDOW` that is 0.009 in the mean and never above 0.25. Feeds come in bursts, though, and b like
texts in a row count as one: ops/decisions/0021-dataset.md has what that does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

WINDOW: Final = 2_000
"""Predictions of each of the two windows."""
BINS: Final = 10
"""The reference's deciles of confidence; or its nine most frequent values, and all others."""
LARGE: Final = 0.25


class Drift(msgspec.Struct, frozen=True):
    """Indices by what moved."""

    confidence: float
    labels: float
    languages: float
    sources: float

    @property
    def largest(self) -> tuple[str, float]:
        """Which one, and how large it is."""
        return max(msgspec.structs.asdict(self).items(), key=lambda item: item[1])


class Window(msgspec.Struct, frozen=True):
    """Predictions in a row, column by column; `confidence` is the greatest probability."""

    confidence: Sequence[float]
    labels: Sequence[str]
    languages: Sequence[str]
    sources: Sequence[str]


def drift(reference: Window, recent: Window) -> Drift:
    """How far `recent` is from `reference`."""
    edges = np.quantile(reference.confidence, np.linspace(0, 1, BINS + 1)[1:-1])
    confidence = (np.searchsorted(edges, window.confidence).astype(str).tolist() for window in (reference, recent))
    return Drift(
        confidence=psi(*confidence),
        labels=psi(reference.labels, recent.labels),
        languages=psi(reference.languages, recent.languages),
        sources=psi(reference.sources, recent.sources),
    )


def psi(reference: Sequence[str], recent: Sequence[str]) -> float:
    """The index of two lists of values. Each bin has half a text more than it has, so that none is empty."""
    frequent = [value for value, _ in Counter(reference).most_common(BINS - 1)]
    p, q = (_shares(values, frequent) for values in (reference, recent))
    return float(np.sum((q - p) * np.log(q / p)))


def _shares(values: Sequence[str], frequent: Sequence[str]) -> np.ndarray:
    counts = Counter(values)
    found = [counts[value] for value in frequent]
    bins = np.array([*found, len(values) - sum(found)], float) + 0.5
    shares: np.ndarray = bins / bins.sum()
    return shares
