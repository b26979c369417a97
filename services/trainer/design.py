"""The design of the gate's test: how much α each look may spend, how many held-out labels a gain needs, how often the
holdout was looked at.

A look is one challenger judged on the holdout. Looks share the holdout, so their false promotions add up: by
Bonferroni, which holds however they depend on each other, a sequence's chance is at most the sum of its looks' α. What
the next challenger's maker is told of the holdout is one bit, and up to the first promotion that bit is always "no": so
a sequence's challengers don't depend on the holdout, and its reuse costs no more than this sum (Blum & Hardt 2015, "The
Ladder", count so: by the answers that could have been given). A person who tunes by the figures of the evidence is
told more than that bit, and isn't covered.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final, Protocol

import numpy as np
from scipy.special import zeta
from scipy.stats import binom

from services.trainer.registry import CHANGES, GATE

ALPHA: Final = 0.02
"""Of a whole sequence of looks: the chance that any challenger that is no better is promoted."""
DECAY: Final = 1.5
"""Look k may spend in proportion to k^−1.5: of the usual exponents in (1, 2], 2 favours the first two looks, 1.5 all
later ones, when the holdout is large enough for small gains."""
GAIN: Final = 0.03
"""The smallest gain in accuracy that the gate is designed to find."""
POWER: Final = 0.88
"""Chance of finding it, in one look at the designed number of labels."""
LEAST_DISAGREEMENT: Final = 0.10
"""Share of texts on which two models are taken to differ, where fewer do."""


def alpha_of(look: int) -> float:
    """One-sided level of the look-th look, from 1 on. All of them together: `ALPHA`."""
    return float(ALPHA / (zeta(DECAY) * look**DECAY))


def power(n: int, disagreement: float, alpha: float, gain: float = GAIN) -> float:
    """Exact power of the one-sided exact McNemar test on n pairs.

    `disagreement` is the chance that only one of the two is right, `gain` how much more often that is the challenger.
    Given D such pairs the challenger's wins are Bin(D, ½ + gain / (2 · disagreement)); D is Bin(n, disagreement)
    (Connor 1987, "Sample size for testing differences in proportions for the paired-sample design", without its
    approximation).
    """
    if n == 0:
        return 0.0
    spread = 8 * math.sqrt(n * disagreement * (1 - disagreement)) + 1
    pairs = np.arange(max(0, int(n * disagreement - spread)), min(n, int(n * disagreement + spread)) + 1)
    most = binom.isf(alpha, pairs, 0.5)  # the test rejects above it
    wins = binom.sf(most, pairs, (disagreement + gain) / (2 * disagreement))
    return float(binom.pmf(pairs, n, disagreement) @ wins)


@lru_cache(maxsize=4096)
def needed(disagreement: float, alpha: float, gain: float = GAIN) -> int:
    """The fewest pairs that have `POWER`."""
    low, high = 1, 2
    while power(high, disagreement, alpha, gain) < POWER:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if power(middle, disagreement, alpha, gain) < POWER else (low, middle)
    return high


def planned(disagreement: float) -> float:
    """The disagreement that the design goes by: the observed one, up to the next percent, within what can be."""
    return min(1.0, max(LEAST_DISAGREEMENT, math.ceil(100 * disagreement - 1e-9) / 100))


class Decision(Protocol):
    """A row of the ledger."""

    @property
    def action(self) -> str:
        """What was done."""

    @property
    def version(self) -> str:
        """With which model."""

    @property
    def actor(self) -> str:
        """By whom."""

    @property
    def evidence(self) -> dict[str, Any]:
        """What it rests on."""


LOOKS: Final = ("refuse", "pass", "promote", "dry-run")
"""Actions by which the gate says what it saw in a look at the holdout. A dry run tells it, too."""


def looks(decisions: Iterable[Decision]) -> int:
    """How often the holdout was looked at since the last challenger that passed was promoted, oldest decision first.

    Its promotion begins a new sequence: the new champion was chosen for being good on this holdout, so the next
    challenger has it harder there than in truth. A rollback takes the promotion back, and the looks before it count
    again. A promotion by hand of what didn't pass begins nothing anew.
    """
    count = 0
    before: list[int] = []
    passed = None
    for row in decisions:
        chosen = row.action == "promote" and row.version == passed
        if row.actor == GATE and not chosen and row.action in LOOKS and row.evidence.get("look") != 0:
            count += 1
            chosen = row.action == "promote"
        if row.action == "promote":
            before.append(count if chosen else 0)
            count = 0 if chosen else count
        elif row.action == "rollback" and before:
            count += before.pop()
        if row.action in ("pass", "withdraw", *CHANGES):
            passed = row.version if row.action == "pass" else None
    return count
