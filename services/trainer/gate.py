"""The gate: is the challenger better than the champion on the same held-out examples, and worse nowhere that counts?

Promoted is what an exact paired test shows to be better overall, at the level of this look (`design`), unless
something vetoes it: a slice or the anchor set where it is significantly worse by more than a margin, answers that
edits without meaning move more often than the champion's, probabilities that are further off, or a slow encoder. The
test is exact at every n, so few labels can prove a large gain; without a rejection, fewer labels than the designed
power takes are 'not enough evidence'.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from scipy.stats import binomtest, norm

from services.trainer import design
from services.trainer.accuracy import Accuracy, accuracy
from services.trainer.calibration import ece, reliability

MIN_HELD_OUT: Final = 30
"""With fewer held-out labels no test is made, and no look is spent."""
VETO_ALPHA: Final = 0.05
"""Chance that a family of slices vetoes a challenger that is worse by its margin in each of them (Holm 1979)."""
MIN_SLICE: Final = 50
"""Texts of the smallest slice that is judged; below it the test of a margin is neither exact enough nor of use."""
MARGIN: Final = 0.05
"""Accuracy that a slice may lose, and share of answers that edits may move beyond the champion's: what trading one
class for another costs where readers' labels shift the classes' shares."""
ANCHOR_MARGIN: Final = 0.0
"""The anchor set is always the same few hundred texts: any significant loss there is forgetting."""
MAX_MISCALIBRATION: Final = 0.05
"""Expected calibration error that a challenger may have beyond the champion's."""
RESAMPLES: Final = 200
MIN_SPEED: Final = 0.5
"""Texts a second, as a share of the champion's, that another encoder must reach."""


class Slice(msgspec.Struct, frozen=True):
    """One part of the texts, or one kind of edit: `champion` and `challenger` are shares of right (unmoved) answers."""

    name: str
    n: int
    champion: float
    challenger: float
    gained: int
    lost: int
    margin: float
    p_value: float
    """Of losing no more than the margin."""
    adjusted: float
    """The same after Holm; at most `VETO_ALPHA` is a veto."""

    @property
    def vetoes(self) -> bool:
        """It is significantly worse than its margin."""
        return self.adjusted <= VETO_ALPHA


class CalibrationErrors(msgspec.Struct, frozen=True):
    """Expected calibration errors on the held-out texts; `excess` is what the challenger's is beyond the champion's at
    least, with 95 % confidence. Above `MAX_MISCALIBRATION` it is a veto."""

    champion: float
    challenger: float
    excess: float


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
    look: int
    """Which one since the gate's last pass; 0: too few labels, no test was made."""
    alpha: float
    """The level of this look."""
    needed: int
    """Held-out labels at which a gain of `design.GAIN` is found with `design.POWER`, at this level and at the
    disagreement that was seen."""
    power: float
    """Chance of finding that gain with the labels there are."""
    slices: tuple[Slice, ...]
    edits: tuple[Slice, ...]
    calibration: CalibrationErrors | None
    speed: float
    """Texts a second over the champion's; 1 where both share an encoder."""
    vetoes: tuple[str, ...]


class Pair(NamedTuple):
    """What the two models did on the same n texts, in the same order."""

    champion: np.ndarray
    challenger: np.ndarray


class Evidence(NamedTuple):
    """What a verdict is found from. Unless said otherwise, pairs are bool[n]: whose answers are right."""

    held_out: Pair
    anchor: Pair
    parts: Mapping[str, np.ndarray] = {}
    """By name, bool[n]: which of the held-out texts belong to a slice."""
    edits: Mapping[str, Pair] = {}
    """By kind of edit: whose answers it leaves as they were."""
    confidence: Pair | None = None
    """float[n]: probabilities of the held-out texts' answers."""
    speed: float = 1.0


def mcnemar(only_challenger: int, only_champion: int) -> float:
    """Exact one-sided McNemar test (McNemar 1947): P(at least this many wins | no difference)."""
    discordant = only_challenger + only_champion
    if discordant == 0:
        return 1.0
    return float(binomtest(only_challenger, discordant, 0.5, alternative="greater").pvalue)


def worse(n: int, gained: int, lost: int, margin: float) -> float:
    """p of "the challenger loses no more than `margin`" on n pairs: small where it loses more.

    Without a margin the exact McNemar test; with one Tango's score test (1998, "Equivalence test and confidence
    interval for the difference in proportions for the paired-sample design"), which keeps its level down to small n
    where Wald's doesn't. `q`, the chance of a gain, is the likeliest one at that margin.
    """
    if margin == 0:
        return mcnemar(lost, gained)
    a, b, c = 2 * n, (2 * n - lost + gained) * margin - lost - gained, -gained * margin * (1 - margin)
    q = (math.sqrt(b * b - 4 * a * c) - b) / (2 * a)
    deviation = math.sqrt(n * (2 * q + margin * (1 - margin)))
    return float(norm.sf((lost - gained - n * margin) / deviation))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values (Holm 1979): those at most α are rejected with a familywise error of at most α."""
    adjusted = [0.0] * len(p_values)
    least = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted


def judge(evidence: Evidence, look: int = 1) -> Verdict:
    """Decide; `look` counts challengers judged on this holdout, see `design.looks`."""
    held_out, anchor = evidence.held_out, evidence.anchor
    n = len(held_out.champion)
    gained, lost = _discordant(held_out)
    p_value = mcnemar(gained, lost)
    tested = n >= MIN_HELD_OUT
    alpha = design.alpha_of(look)
    disagreement = design.planned((gained + lost) / n if n else 0.0)
    slices = _slices({"anchor": anchor} | {name: _part(held_out, mask) for name, mask in evidence.parts.items()})
    edits = _slices(evidence.edits)
    calibration = _calibration(evidence.confidence, held_out) if evidence.confidence and tested else None
    verdict = Verdict(
        promote=False,
        reason="",
        champion=accuracy(held_out.champion),
        challenger=accuracy(held_out.challenger),
        gained=gained,
        lost=lost,
        p_value=p_value,
        anchor_champion=accuracy(anchor.champion),
        anchor_challenger=accuracy(anchor.challenger),
        look=look if tested else 0,
        alpha=alpha,
        needed=design.needed(disagreement, alpha),
        power=design.power(n, disagreement, alpha),
        slices=slices,
        edits=edits,
        calibration=calibration,
        speed=evidence.speed,
        vetoes=_vetoes(slices, edits, calibration, evidence.speed),
    )
    reason = _reason(verdict)
    return msgspec.structs.replace(verdict, promote=reason.startswith(BETTER), reason=reason)


BETTER: Final = "better: "


def _reason(verdict: Verdict) -> str:
    """One line."""
    n = verdict.champion.n
    if not verdict.look:
        return f"not enough evidence: {n} held-out labels of {verdict.needed}"
    result = f"+{verdict.gained} −{verdict.lost} of {n}, p = {verdict.p_value:.2g}"
    level = f"α = {verdict.alpha:.2g} at look {verdict.look}"
    if verdict.p_value > verdict.alpha:
        if n < verdict.needed:
            return f"not enough evidence: {n} held-out labels of {verdict.needed}; {result}, {level}"
        return f"not shown to be better: {result}, {level}"
    if verdict.vetoes:
        return f"vetoed: {'; '.join(verdict.vetoes)}; overall {result}"
    return f"{BETTER}{result}, {level}"


def _vetoes(
    slices: Sequence[Slice], edits: Sequence[Slice], calibration: CalibrationErrors | None, speed: float
) -> tuple[str, ...]:
    found = []
    for part in slices:
        if part.vetoes:
            change = f"{part.champion:.1%} → {part.challenger:.1%}"
            found.append(f"forgets: {change} on the anchor set" if part.name == ANCHOR else f"{part.name}: {change}")
    for edit in edits:
        if edit.vetoes:
            moved = f"{1 - edit.challenger:.1%} of answers, the champion's {1 - edit.champion:.1%}"
            found.append(f"unstable: {edit.name} moves {moved}")
    if calibration and calibration.excess > MAX_MISCALIBRATION:
        found.append(f"miscalibrated: its probabilities are off by {calibration.challenger:.1%}, "
                     f"the champion's by {calibration.champion:.1%}")  # fmt: skip
    if speed < MIN_SPEED:
        found.append(f"slow: {speed:.0%} of the champion's texts a second")
    return tuple(found)


ANCHOR: Final = "anchor"


def _slices(parts: Mapping[str, Pair]) -> tuple[Slice, ...]:
    """One family: those of at least `MIN_SLICE` texts, by name."""
    rows = []
    for name, pair in parts.items():
        n = len(pair.champion)
        if n >= MIN_SLICE:
            gained, lost = _discordant(pair)
            margin = ANCHOR_MARGIN if name == ANCHOR else MARGIN
            p_value = worse(n, gained, lost, margin)
            rates = float(np.mean(pair.champion)), float(np.mean(pair.challenger))
            rows.append(Slice(name, n, *rates, gained, lost, margin, p_value, 1.0))
    adjusted = holm([row.p_value for row in rows])
    return tuple(msgspec.structs.replace(row, adjusted=p) for row, p in zip(rows, adjusted, strict=True))


def _discordant(pair: Pair) -> tuple[int, int]:
    """Only the challenger, only the champion."""
    return int(np.sum(pair.challenger & ~pair.champion)), int(np.sum(pair.champion & ~pair.challenger))


def _part(pair: Pair, mask: np.ndarray) -> Pair:
    return Pair(pair.champion[mask], pair.challenger[mask])


def _calibration(confidence: Pair, right: Pair) -> CalibrationErrors:
    """The limit is the 5 % quantile of a paired bootstrap (Efron & Tibshirani 1993), always of the same resamples."""
    n = len(right.champion)
    random = np.random.default_rng(0)

    def errors(texts: np.ndarray) -> list[float]:
        return [ece(reliability(c[texts], r[texts])) for c, r in zip(confidence, right, strict=True)]

    champion, challenger = errors(np.arange(n))
    resampled = np.array([errors(random.integers(n, size=n)) for _ in range(RESAMPLES)])
    excess = float(np.quantile(resampled[:, 1] - resampled[:, 0], 0.05))
    return CalibrationErrors(champion, challenger, excess)
