"""Calibration: a temperature, how far confidence can then be believed, and below which of it the model abstains.

Confidence is the greatest of a text's probabilities. It is calibrated where, of the texts that get confidence 0.8,
eight in ten are right (Guo et al. 2017, "On Calibration of Modern Neural Networks"). Targets may be shared between
labels: the answer then counts as right by its share.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.optimize import minimize_scalar

from services.score.artifact import Calibration, Group
from services.score.head import softmax

COOLEST, HOTTEST = 0.2, 5.0
"""Bounds of the temperature; a fit that ends at one of them has learned nothing that could be calibrated."""
COVERAGE: Final = 0.9
"""Share of texts like the held-out ones that a model is to answer."""
BINS: Final = 15
"""As many as Guo et al. (2017) take."""
RESAMPLED: Final = 200
DIGITS: Final = 4
"""After the point, on the card."""


def calibrate(logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    """The temperature that minimises the weighted cross-entropy on examples the head hasn't learned (Guo et al. 2017).

    Args:
        logits: float32[n, 3].
        targets: float32[n, 3].
        weights: float32[n].
    """

    def loss(log_temperature: float) -> float:
        scaled = logits.astype(np.float64) / np.exp(log_temperature)
        losses = np.logaddexp.reduce(scaled, axis=1) - (targets * scaled).sum(axis=1)
        return float(weights @ losses)

    found = minimize_scalar(loss, bounds=(np.log(COOLEST), np.log(HOTTEST)), method="bounded")
    return round(float(np.exp(found.x)), DIGITS)


def measure(
    logits: np.ndarray, targets: np.ndarray, weights: np.ndarray, temperature: float, coverage: float = COVERAGE
) -> Calibration:
    """What calibration is worth, on the examples that `temperature` was fitted on; the arrays as for `calibrate`.

    The threshold is over all of them, at this temperature. The figures are cross-fitted: each half of the examples,
    every other one, is judged by a temperature and a threshold of the other half, and so by none that has seen it.
    Weights count for temperatures alone: coverage is a share of texts as they come.

    Raises:
        ValueError: fewer than two examples.
    """
    if len(logits) < 2:
        raise ValueError(f"no calibration can be measured on {len(logits)} examples")
    right = targets[np.arange(len(logits)), logits.argmax(axis=1)].astype(np.float64)
    confidence, answered = np.zeros(len(logits)), np.zeros(len(logits), bool)
    odd = np.arange(len(logits)) % 2 == 1
    for judged in (odd, ~odd):
        others = calibrate(logits[~judged], targets[~judged], weights[~judged])
        confidence[judged] = confidences(logits[judged], others)
        answered[judged] = confidence[judged] >= threshold(confidences(logits[~judged], others), coverage)
    bins = reliability(confidence, right)
    return Calibration(
        texts=len(logits),
        ece=round(ece(bins), DIGITS),
        ece_by_chance=round(ece_by_chance(confidence), DIGITS),
        coverage=coverage,
        threshold=threshold(confidences(logits, temperature), coverage),
        answered=_group(confidence, right, answered),
        abstained=_group(confidence, right, ~answered),
        bins=tuple(bins),
    )


def confidences(logits: np.ndarray, temperature: float) -> np.ndarray:
    """float32[n, 3] → float64[n]."""
    found: np.ndarray = softmax(logits, temperature).max(axis=1)
    return found


def threshold(confidence: np.ndarray, coverage: float) -> float:
    """The greatest confidence that at least this share of the texts reach, rounded down: Chow's rule (1970) on the
    softmax's own answer, as Geifman & El-Yaniv (2017), "Selective Classification for Deep Neural Networks".
    """
    answered = int(np.ceil(coverage * len(confidence) - 1e-9))  # 0.9 · 10 is 9, whatever its last bit
    least = np.sort(confidence)[::-1][max(answered, 1) - 1]
    return float(np.floor(least * 10**DIGITS) / 10**DIGITS)


def reliability(confidence: np.ndarray, right: np.ndarray) -> list[Group]:
    """The reliability diagram, by rising confidence: as many texts in each bin, and texts of one confidence in one bin.

    Bins of equal width would leave most of them next to empty, since confidences crowd near 1; and equal mass biases
    the error less (Roelofs et al. 2022, "Mitigating Bias in Calibration Error Estimation").

    Args:
        confidence: float64[n].
        right: float64[n], 0 to 1.
    """
    ordered, n = np.sort(confidence), len(confidence)
    edges = ordered[[n * number // BINS for number in range(1, BINS)]]
    chosen = np.searchsorted(edges, confidence, side="right")
    return [_group(confidence, right, chosen == number) for number in np.unique(chosen)]


def ece(bins: list[Group]) -> float:
    """Expected calibration error: the mean over the texts of |accuracy − confidence| of their bin (Naeini, Cooper &
    Hauskrecht 2015; Guo et al. 2017)."""
    return sum(b.n * abs(b.accuracy - b.confidence) for b in bins) / sum(b.n for b in bins)


def ece_by_chance(confidence: np.ndarray) -> float:
    """What the error is expected to be where the confidences are exactly right, since each bin holds few texts: the
    mean over answers that are drawn by them (consistency resampling; Bröcker & Smith 2007, "Increasing the Reliability
    of Reliability Diagrams"). An error near it shows nothing wrong.
    """
    drawn = np.random.default_rng(0).random((RESAMPLED, len(confidence))) < confidence
    return float(np.mean([ece(reliability(confidence, right)) for right in drawn]))


def _group(confidence: np.ndarray, right: np.ndarray, chosen: np.ndarray) -> Group:
    """Of no texts both means are 0."""
    n = int(chosen.sum())
    if n == 0:
        return Group(0, 0.0, 0.0)
    return Group(n, round(float(confidence[chosen].mean()), DIGITS), round(float(right[chosen].mean()), DIGITS))
