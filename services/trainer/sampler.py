"""The order in which a run sees its texts. Where it stands can be written down and taken up again. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import torch
from msgspec import Struct

POOL: Final = 50
"""Batches that are drawn together and sorted by length, so that little is padded."""


class Place(Struct):
    """Where a sampler stands in an epoch."""

    order: list[int]
    """Every index once."""
    at: int = 0
    """Of the next pool in `order`."""
    waiting: list[list[int]] = []
    """Batches that are drawn but not yet given out."""


class Sampler:
    """Batches of at most `size` indexes by torch's own random numbers: every index once an epoch, in random order, but
    of like length within a batch."""

    def __init__(self, lengths: Sequence[int], size: int) -> None:
        self._lengths, self._size = lengths, size
        self.place = Place([])

    def begin(self) -> None:
        """A new epoch."""
        self.place = Place(torch.randperm(len(self._lengths)).tolist())

    def __iter__(self) -> Iterator[list[int]]:
        """What is left of the epoch."""
        place = self.place
        while place.waiting or place.at < len(place.order):
            if not place.waiting:
                place.waiting = self._drawn(place.order[place.at : place.at + POOL * self._size])
                place.at += POOL * self._size
            yield place.waiting.pop(0)

    def _drawn(self, pool: Sequence[int]) -> list[list[int]]:
        ordered = sorted(pool, key=self._lengths.__getitem__)
        batches = [ordered[i : i + self._size] for i in range(0, len(ordered), self._size)]
        return [batches[number] for number in torch.randperm(len(batches)).tolist()]
