"""The gate: is the challenger better than the champion on the same held-out examples, and has it forgotten nothing?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

ALPHA: Final = 0.05
"""One-sided level of the exact McNemar test."""
MIN_HELD_OUT: Final = 30
"""Fewer held-out labels than this can't show a gain worth having: 'not enough evidence', whatever they say."""
MAX_FORGOTTEN: Final = 0.02
"""Accuracy on the anchor set that a challenger may lose."""


class Accuracy(msgspec.Struct, frozen=True):
    """Right answers of n, with the Wilson 95 % interval."""

    right: int
    n: int
    rate: float
    low: float
    high: float


class Verdict(msgspec.Struct, frozen=True):
    """The decision and all the numbers it rests on."""

    promote: bool
    reason: str
    champion: Accuracy
    challenger: Accuracy
    gained: int
    """Held-out examples that only the challenger gets right."""
    lost: int
    """Held-out examples that only the champion gets right."""
    p_value: float
    anchor_champion: Accuracy
    anchor_challenger: Accuracy


def accuracy(right: Sequence[bool] | np.ndarray) -> Accuracy:
    """Share of right answers; the interval is Wilson's (1927), as recommended by Brown, Cai & DasGupta (2001)."""
    k, n = int(np.sum(right)), len(right)
    if n == 0:
        return Accuracy(0, 0, 0.0, 0.0, 1.0)
    from scipy.stats import binomtest  # takes a second, which the gateway needn't wait for at its start

    interval = binomtest(k, n).proportion_ci(method="wilson")
    return Accuracy(k, n, k / n, float(interval.low), float(interval.high))


def mcnemar(only_challenger: int, only_champion: int) -> float:
    """Exact one-sided McNemar test (McNemar 1947): P(at least this many wins | no difference)."""
    discordant = only_challenger + only_champion
    if discordant == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(only_challenger, discordant, 0.5, alternative="greater").pvalue)


def judge(
    champion: np.ndarray, challenger: np.ndarray, anchor_champion: np.ndarray, anchor_challenger: np.ndarray
) -> Verdict:
    """Compare two models' right answers, boolean arrays over the same held-out and the same anchor examples."""
    gained = int(np.sum(challenger & ~champion))
    lost = int(np.sum(champion & ~challenger))
    p_value = mcnemar(gained, lost)
    before, after = accuracy(anchor_champion), accuracy(anchor_challenger)
    if len(champion) < MIN_HELD_OUT:
        promote, reason = False, f"not enough evidence: {len(champion)} held-out labels of {MIN_HELD_OUT}"
    elif before.rate - after.rate > MAX_FORGOTTEN:
        promote, reason = False, f"forgets: {before.rate:.1%} → {after.rate:.1%} on the anchor set"
    elif p_value >= ALPHA:
        promote, reason = False, f"not shown to be better: +{gained} −{lost}, p = {p_value:.3f}"
    else:
        promote, reason = True, f"better: +{gained} −{lost} of {len(champion)}, p = {p_value:.2g}"
    return Verdict(promote, reason, accuracy(champion), accuracy(challenger), gained, lost, p_value, before, after)
