"""Which texts tell one story, across the border between what teaches and what measures.

The clean service keeps copies out, but not all: it forgets stories after some days, and takes a short text for a copy
only where every word is the same, since a dropped piece of news can't be had back. Here recall comes before precision:
a text less to learn from costs little, a copy on both sides makes every figure too good.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
from scipy.sparse import csr_array

from services.clean.canonical import canonical

COPY: Final = 0.8
"""Least Jaccard similarity of the canonical tokens of a text and its copy, whenever each came."""
RETOLD: Final = 0.6
"""The same of a story and another telling of it, within the embargo."""
EMBARGO_MS: Final = 3 * 24 * 3600 * 1000
"""Between their event times: how long a piece of news is told again in other words."""
CHUNK: Final = 500
"""Texts compared at a time: their overlaps with all others are in memory at once."""


class Text(Protocol):
    """What is compared."""

    @property
    def text(self) -> str:
        """Its words."""

    @property
    def at(self) -> int:
        """Event time in ms; 0 where there is none, and then it has no embargo."""


class Pair(NamedTuple):
    """Two texts of one story, by their places in the lists."""

    left: int
    right: int
    copy: bool
    """Else it is another telling within the embargo."""


def pairs(left: Sequence[Text], right: Sequence[Text]) -> Iterator[Pair]:
    """All of them: exact, with no hash that could miss one."""
    tokens = [[frozenset(said(one.text)) for one in side] for side in (left, right)]
    known = {token: number for number, token in enumerate(sorted(frozenset().union(*tokens[1])))}
    one, other = (_matrix(side, known) for side in tokens)
    sizes = [np.array([len(found) for found in side]) for side in tokens]
    times = [np.array([text.at for text in side]) for side in (left, right)]
    for start in range(0, len(left), CHUNK):
        shared = (one[start : start + CHUNK] @ other.T).tocoo()
        a, b = shared.row + start, shared.col
        similarity = shared.data / (sizes[0][a] + sizes[1][b] - shared.data)
        embargo = (np.abs(times[0][a] - times[1][b]) <= EMBARGO_MS) & (times[0][a] > 0) & (times[1][b] > 0)
        copy = similarity >= COPY
        found = copy | (embargo & (similarity >= RETOLD))
        yield from map(Pair, a[found].tolist(), b[found].tolist(), copy[found].tolist())


def said(text: str) -> tuple[str, ...]:
    """What two copies have in common; a text of signs alone is one token."""
    return tuple(canonical(text).tokens) or (text,)


def _matrix(texts: Sequence[frozenset[str]], known: Mapping[str, int]) -> csr_array:
    """int32[n, known]: 1 where a text has the token."""
    columns = [sorted(known[token] for token in tokens if token in known) for tokens in texts]
    ends = np.cumsum([0, *map(len, columns)])
    found = np.array([column for row in columns for column in row], np.int64)
    return csr_array((np.ones(len(found), np.int32), found, ends), shape=(len(texts), max(1, len(known))))
