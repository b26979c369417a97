"""When to train: decisions over numbers that `observed` reads, each with the sentence that explains it.

A trigger asks for a run: enough new labels, time, drift, or live accuracy under a bound. A hindrance stands against it:
a run under way, the cool-down after one, or new labels that can't matter: too few of them contradict the champion to
move the held-out answers that a pass takes, or the holdout is too small for any pass.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from scipy.stats import binomtest

from services.settings import Settings
from services.trainer import design
from services.trainer.drift import LARGE, WINDOW
from services.trainer.evaluations import Evaluation, Numbers, Trigger
from services.trainer.gate import MIN_HELD_OUT

EARLY: Final = 0.25
"""Share of `retrain_after` from which drift or low accuracy needn't wait for the rest."""
LEAST_CONTRADICTING: Final = 8
"""New labels that must contradict the prediction: a pass at the first look takes at least 8 held-out answers won and
none lost (½⁸ is below its α, ½⁷ above), and fewer words than that seldom move so many."""
POSSIBLE: Final = 0.1
"""Least chance of a pass if the challenger mended half of the champion's mistakes."""


class _Part(NamedTuple):
    holds: bool
    says: str


def evaluate(numbers: Numbers, settings: Settings) -> Evaluation:
    """Whether to train, and why or why not."""
    asking = _triggers(numbers, settings)
    against = {name: part for name, part in _hindrances(numbers, settings).items() if part.holds}
    trigger: Trigger = next((name for name, part in asking.items() if part.holds), "")
    train = bool(trigger) and not against
    parts = [*asking.items(), *against.items()]
    said = "; ".join(part.says for _, part in parts)
    return Evaluation(
        at=numbers.at,
        train=train,
        trigger=trigger,
        holds=tuple(name for name, part in parts if part.holds),
        reason=f"yes, by {trigger}: {said}" if train else f"no: {said}",
        numbers=numbers,
    )


def by_command(numbers: Numbers) -> Evaluation:
    """A person asks, and that is reason enough."""
    said = f"yes, by command; {numbers.fresh:,} new labels, {numbers.contradicting:,} contradict the champion"
    return Evaluation(numbers.at, True, "command", ("command",), said, numbers)


def _triggers(numbers: Numbers, settings: Settings) -> dict[Trigger, _Part]:
    after = settings.retrain_after
    return {
        "volume": _Part(numbers.fresh >= after, f"{numbers.fresh:,} of {after:,} new labels"),
        "time": _time(numbers, settings),
        "drift": _early(numbers, settings, _drift(numbers)),
        "accuracy": _early(numbers, settings, _accuracy(numbers, settings.retrain_below)),
    }


def _time(numbers: Numbers, settings: Settings) -> _Part:
    if not numbers.fresh or numbers.since is None:
        return _Part(False, "nothing new to learn from")
    waited, longest = (numbers.at - numbers.since) // 1000, settings.retrain_every_s
    return _Part(waited >= longest, f"waited {_span(waited)} of {_span(longest)}")


def _drift(numbers: Numbers) -> _Part:
    if numbers.drift is None:
        return _Part(False, f"drift unknown: {numbers.predictions:,} of {2 * WINDOW:,} predictions")
    name, size = numbers.drift.largest
    large = size >= LARGE
    return _Part(large, f"drift of {name} {size:.2f} {'above' if large else 'below'} {LARGE}")


def _accuracy(numbers: Numbers, bound: float) -> _Part:
    if not numbers.sampled:
        return _Part(False, "live accuracy unknown: no random review of this champion yet")
    low, high = accuracy_interval(numbers.right, numbers.sampled)
    side = "below" if high < bound else "above" if low >= bound else "not clearly below"
    rate = numbers.right / numbers.sampled
    return _Part(high < bound, f"live accuracy {rate:.1%} ({low:.0%}–{high:.0%}) {side} the bound of {bound:.0%}")


def _early(numbers: Numbers, settings: Settings, part: _Part) -> _Part:
    """A trigger that needn't wait for the volume, but for some of it."""
    least = max(1, round(EARLY * settings.retrain_after))
    if not part.holds or numbers.fresh >= least:
        return part
    return _Part(False, f"{part.says}, but only {numbers.fresh:,} of {least:,} new labels for it")


def accuracy_interval(right: int, n: int) -> tuple[float, float]:
    """Exact 95 % interval (Clopper & Pearson 1934)."""
    found = binomtest(right, n).proportion_ci(0.95, method="exact")
    return float(found.low), float(found.high)


def _hindrances(numbers: Numbers, settings: Settings) -> dict[str, _Part]:
    left = 0 if numbers.ended is None else numbers.ended // 1000 + settings.retrain_cooldown_s - numbers.at // 1000
    few = numbers.contradicting < LEAST_CONTRADICTING
    chance = passing(numbers)
    return {
        "running": _Part(numbers.running, "a run is under way"),
        "cool-down": _Part(left > 0, f"the cool-down ends in {_span(left)}"),
        "agreement": _Part(few, f"{numbers.contradicting} of {LEAST_CONTRADICTING} new labels contradict the champion"),
        "power": _Part(chance < POSSIBLE, _weak(numbers, chance)),
    }


def passing(numbers: Numbers) -> float:
    """Chance that the gate finds a challenger better which mends half of the champion's mistakes and makes none of its
    own; of mistakes there are taken to be as many as there may be."""
    if numbers.held_out < MIN_HELD_OUT:
        return 0.0
    low = accuracy_interval(numbers.right, numbers.sampled)[0] if numbers.sampled else 0.0
    gain = (1 - low) / 2
    return design.power(numbers.held_out, max(gain, 1e-6), design.alpha_of(numbers.look), gain)


def _weak(numbers: Numbers, chance: float) -> str:
    if numbers.held_out < MIN_HELD_OUT:
        return f"no pass is possible with {numbers.held_out} of {MIN_HELD_OUT} held-out labels"
    return (
        f"{numbers.held_out} held-out labels would show half of the mistakes mended with a chance of {chance:.0%} only"
    )


def _span(seconds: int) -> str:
    for size, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {name}"
    return f"{max(0, seconds)} s"
