"""A share of right answers with its interval."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np


class Accuracy(msgspec.Struct, frozen=True):
    """Right answers of n, with the Wilson 95 % interval."""

    right: int
    n: int
    rate: float
    low: float
    high: float


def accuracy(right: Sequence[bool] | np.ndarray) -> Accuracy:
    """Share of right answers; the interval is Wilson's (1927), as recommended by Brown, Cai & DasGupta (2001)."""
    k, n = int(np.sum(right)), len(right)
    if n == 0:
        return Accuracy(0, 0, 0.0, 0.0, 1.0)
    from scipy.stats import binomtest  # takes a second, which the gateway needn't wait for at its start

    interval = binomtest(k, n).proportion_ci(method="wilson")
    return Accuracy(k, n, k / n, float(interval.low), float(interval.high))
