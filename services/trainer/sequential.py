"""Has the new champion proved worse than the one before? A test that may be looked at after every label.

Of each text that a reader labels at random, both models' answers are known. Where only one is right, that is a win or
a loss of the new champion; the rest say nothing about the difference. "No worse" says that a loss is no likelier than
a win. Against it bets a mixture over all chances of a loss above ½, uniformly: of odds θ against ½ the stake grows by
2θ with a loss and by 2(1 − θ) with a win, which is no gain on average where the claim holds. So the mixture is a
non-negative supermartingale, and by Ville's inequality (1939) it ever reaches 1/α with a chance of at most α, at
whatever moment one looks or stops. See Robbins (1970, "Statistical methods related to the law of the iterated
logarithm") for mixtures, Ramdas et al. (2023, "Game-theoretic statistics and safe anytime-valid inference") for the
rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

ALPHA: Final = 0.02
"""Chance that a champion that is no worse is ever rolled back."""


class Watch(NamedTuple):
    """Wins and losses of the new champion so far."""

    wins: int = 0
    losses: int = 0

    def seen(self, outcomes: Iterable[tuple[bool, bool]]) -> Watch:
        """After further texts: (the former champion is right, the new one is right) of each."""
        wins, losses = self
        for before, now in outcomes:
            wins += now and not before
            losses += before and not now
        return Watch(wins, losses)

    @property
    def log_evidence(self) -> float:
        """Natural logarithm of the stake: 2^(n+1) ∫ θ^losses (1 − θ)^wins dθ from ½ to 1."""
        from scipy.special import betaln  # takes a second, which the gateway needn't wait for at its start
        from scipy.stats import beta

        wins, losses = self
        above = float(beta.logsf(0.5, losses + 1, wins + 1))
        return (wins + losses + 1) * math.log(2) + float(betaln(losses + 1, wins + 1)) + above

    def worse(self, alpha: float = ALPHA) -> bool:
        """It is significantly worse: time to roll back."""
        return self.log_evidence >= -math.log(alpha)
