"""Which way of tuning is best within a budget of trials: successive halving (Jamieson & Talwalkar 2016). Half of what
was tried goes on to twice the epochs, until one is left. What measures is given: the loss on the watched texts, never
anything held out."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from typing import Final, NamedTuple

from services.trainer.tune import Plan

RATES: Final = (0.3, 1.0, 3.0)
"""Times the rate that one would start from."""
RANKS: Final = (4, 8, 16, 32)
REPLAYS: Final = (0.5, 1.0, 2.0)
MARGIN: Final = 0.01
"""By so many nats the loss must fall for edits to be learned, too: they double what is to be computed."""


class Trial(NamedTuple):
    """One way to tune."""

    plan: Plan
    replay: float = 1.0
    """What an anchor text counts, against 1 of a text that a person labelled."""
    augmented: bool = False
    """Whether edits that keep a text's label are learned, too."""


def search(start: Trial, budget: int, seed: int, loss: Callable[[Trial], float], say: Callable[[str], None]) -> Trial:
    """The best of `budget` trials, of which `start` is one; its epochs are those of the last round. At last the same is
    tried with augmentation, which stays where it shows its gain.

    Args:
        start: what would be done without a search.
        budget: how many begin, 2 or more.
        seed: of the others, drawn at random.
        loss: of a trial; called once for each in each round.
        say: told the outcome of each trial.
    """
    left = drawn(start, budget, seed)
    rounds = math.ceil(math.log2(len(left)))
    for number in range(1, rounds + 1):
        epochs = max(1, start.plan.epochs >> (rounds - number))
        left = [trial._replace(plan=trial.plan._replace(epochs=epochs)) for trial in left]
        losses = {trial: loss(trial) for trial in left}
        for trial in left:
            say(f"{losses[trial]:.4f} by {words(trial)}")
        left = sorted(left, key=losses.__getitem__)[: -(-len(left) // 2)]
    (best,) = left
    augmented = best._replace(augmented=True)
    gain = losses[best] - loss(augmented)
    say(f"edits gain {gain:+.4f}; they take {MARGIN} to stay")
    return augmented if gain >= MARGIN else best


def drawn(start: Trial, budget: int, seed: int) -> list[Trial]:
    """`start`, and others around it; fewer than `budget` where there are no more."""
    plan = start.plan
    ranks = RANKS if plan.rank else (0,)
    around = [
        start._replace(plan=plan._replace(rate=plan.rate * rate, rank=rank), replay=replay)
        for rate, rank, replay in itertools.product(RATES, ranks, REPLAYS)
    ]
    others = [trial for trial in around if trial != start]
    random.Random(seed).shuffle(others)  # noqa: S311 (nothing secret)
    return [start, *others[: budget - 1]]


def words(trial: Trial) -> str:
    """In short."""
    plan = trial.plan
    return f"rate {plan.rate:.1g}, rank {plan.rank}, replay {trial.replay:g}, {plan.epochs} epochs"
