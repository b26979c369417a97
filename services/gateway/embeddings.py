"""What the encoder makes of texts, remembered by text id: the review queue looks at the same texts again and again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

import numpy as np

from services.gateway.problems import unavailable
from services.gateway.scorers import Scorers
from services.score.wire import MAX_CHARS, MAX_TEXTS

REMEMBERED: Final = 5_000
"""Texts; with the bundled encoder's 1,920 numbers, 40 MB."""


class Embeddings:
    """Asks a score worker about what isn't known; of one encoder at a time."""

    def __init__(self, scorers: Scorers) -> None:
        self._scorers = scorers
        self._encoder = ""
        self._known: OrderedDict[str, np.ndarray] = OrderedDict()

    async def of(self, texts: Mapping[str, str]) -> np.ndarray:
        """Texts by id → float32[n, d], in their order; n is at most `REMEMBERED`.

        Raises:
            Problem: no worker can say, or they change their encoder just now.
            Transient: the database, which knows the workers, is away.
        """
        for _ in range(2):  # what was known is of no use once a worker answers with another encoder
            await self._learn([name for name in texts if name not in self._known], texts)
            if all(name in self._known for name in texts):
                return np.array([self._take(name) for name in texts], np.float32)
        raise unavailable("the score workers change their encoder")

    async def _learn(self, missing: list[str], texts: Mapping[str, str]) -> None:
        for at in range(0, len(missing), MAX_TEXTS):
            names = missing[at : at + MAX_TEXTS]
            found = await self._scorers.features([texts[name][:MAX_CHARS] for name in names])
            if found.key != self._encoder:
                self._known.clear()
                self._encoder = found.key
            rows = np.frombuffer(found.rows, "<f4").reshape(len(names), found.width)
            self._known.update(zip(names, rows, strict=True))
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    def _take(self, name: str) -> np.ndarray:
        self._known.move_to_end(name)
        return self._known[name]
