"""What a person should look at next, as pure functions: candidates in, picks out.

Every place in the queue is drawn by `SHARES`, so that the mixture holds for one text as for fifty:

- *random*: a held-out text, drawn evenly from all that have no word by such a draw yet. Only these measure.
- *again*: a text that one or two others have judged, drawn evenly, for another opinion: by what several people said of
  the same texts each one's reliability is known.
- *disagreement*: a text whose judges contradict each other or the model, for a further opinion; then one of which the
  shadow says otherwise than the champion (query by committee; Seung, Opper, Sompolinsky 1992).
- *slice*: a ticker, source or language drawn evenly from those there are, and the most uncertain text in it, so that
  small ones are seen, too: the gate vetoes by slices.
- *uncertain*: small margin between the two likeliest labels (Scheffer, Decomain, Wrobel 2001; ahead of entropy with
  transformers in Schröder, Niekler, Potthast 2022), far from each other and from what was looked at lately (greedy
  k-center over the encoder's features; Sener, Savarese 2018).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import Final, Literal, NamedTuple

import numpy as np

Why = Literal["random", "again", "disagreement", "slice", "uncertain", "gold"]

SHARES: Final[Mapping[Why, float]] = {
    "random": 0.45,
    "again": 0.15,
    "disagreement": 0.1,
    "slice": 0.05,
    "uncertain": 0.25,
}
"""Of the queue without its gold questions. What a kind lacks goes to the others, in proportion."""
OPINIONS: Final = 3
"""Most people who are asked about one text."""
POOL: Final = 4
"""So many times the texts that are wanted, by margin, are spread over the encoder's features."""


class Candidate(NamedTuple):
    """A prediction that somebody could be asked about."""

    prediction_id: str
    text_id: str
    label: str
    margin: float
    """Between the probabilities of the two likeliest labels, in [0, 1]."""
    slices: tuple[str, ...]
    """Its tickers, source and language."""
    held: bool
    """Held out: never trained on, so it is drawn at random only."""
    sampled: bool
    """Some word on it was asked for by such a draw."""
    words: tuple[str, ...] = ()
    """What the people who judged it say now."""
    challenger: str | None = None
    """What the shadow says of it."""
    first: bool = True
    """Nobody else is asked about it now; whoever asks may be the first."""
    another: bool = False
    """Whoever asks may give another opinion."""


class Pick(NamedTuple):
    """A candidate and why it was picked."""

    why: Why
    candidate: Candidate

    @property
    def drawn(self) -> bool:
        """Whether a word on it measures: another opinion on a text that was drawn at random does, too."""
        return self.why == "random" or (self.candidate.held and self.candidate.sampled)


def margin(probabilities: Sequence[float]) -> float:
    """Of the likeliest over the second likeliest."""
    *_, second, most = sorted(probabilities)
    return most - second


def uncertain(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Those that nobody has judged and that may be chosen, the least margin first."""
    return sorted((c for c in candidates if c.first and not c.held and not c.words), key=lambda c: c.margin)


def far_apart(features: np.ndarray, near: np.ndarray, n: int) -> list[int]:
    """Greedy k-center: `n` rows of float32[m, d], each the farthest from those before and from `near` (float32[k, d]),
    every dimension in units of its deviation; with nothing near, the first row is first."""
    if not len(features):
        return []
    scale = features.std(axis=0) + 1e-6
    rows = features / scale
    distance = np.full(len(rows), np.inf, np.float32)
    for row in near:
        np.minimum(distance, np.square(rows - row / scale).sum(axis=1), out=distance)
    chosen: list[int] = []
    while len(chosen) < min(n, len(rows)):
        chosen.append(int(distance.argmax()))
        np.minimum(distance, np.square(rows - rows[chosen[-1]]).sum(axis=1), out=distance)
        distance[chosen] = -1
    return chosen


def queue(candidates: Sequence[Candidate], spread: Sequence[Candidate], n: int, random: Random) -> list[Pick]:
    """`n` picks, fewer where there is no more, none twice. `spread` are the uncertain in their order."""
    lists: dict[Why, Iterator[Candidate]] = {
        "random": iter(_shuffled((c for c in candidates if c.first and c.held and not c.sampled), random)),
        "again": iter(_shuffled((c for c in candidates if c.another), random)),
        "disagreement": iter(_disagreed(candidates)),
        "slice": _by_slice(spread, random),
        "uncertain": iter(spread),
    }
    picks: list[Pick] = []
    taken: set[str] = set()
    while len(picks) < n and lists:
        why = random.choices(list(lists), [SHARES[kind] for kind in lists])[0]
        found = next((c for c in lists[why] if c.prediction_id not in taken), None)
        if found is None:
            del lists[why]
        else:
            taken.add(found.prediction_id)
            picks.append(Pick(why, found))
    return picks


def _shuffled(candidates: Iterable[Candidate], random: Random) -> list[Candidate]:
    found = list(candidates)
    random.shuffle(found)
    return found


def _disagreed(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Judges against each other, one against the model, champion against challenger; the least margin first."""
    ranked = []
    for c in candidates:
        if c.another and len(set(c.words)) > 1:
            ranked.append((0, c.margin, c))
        elif c.another and c.words[0] != c.label:
            ranked.append((1, c.margin, c))
        elif c.first and not c.held and not c.words and c.challenger not in (None, c.label):
            ranked.append((2, c.margin, c))
    return [c for *_, c in sorted(ranked, key=lambda entry: entry[:2])]


def _by_slice(spread: Iterable[Candidate], random: Random) -> Iterator[Candidate]:
    """A slice drawn evenly, and the first that is left in it; over and over."""
    slices: defaultdict[str, list[Candidate]] = defaultdict(list)
    for c in spread:
        for name in c.slices:
            slices[name].append(c)
    waiting = {name: iter(found) for name, found in sorted(slices.items())}
    while waiting:
        name = random.choice(list(waiting))
        candidate = next(waiting[name], None)
        if candidate is None:
            del waiting[name]
        else:
            yield candidate
