"""How far the store has come, which decides whether a prediction is unknown or only late."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Final

from services import store
from services.stream import topics
from services.stream.bus import Bus, TopicPartition

LOOK_S: Final = 2.0
"""Longest look for records between the store's position and the goal; what isn't seen in it is asked for again."""


class StoreProgress:
    """Whether the store has taken in what `predictions` held when it was first asked."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def __call__(self) -> Callable[[], bool]:
        """Fix the goal now; the answer tells whether the store has reached it."""
        ends = self._bus.ends(topics.PREDICTIONS)

        def reached() -> bool:
            done = self._bus.committed(store.GROUP, topics.PREDICTIONS)
            begins = self._bus.begins(topics.PREDICTIONS)
            start = {place: max(done.get(place, 0), begins[place]) for place in ends}
            return all(start[place] >= end for place, end in ends.items()) or not self._holds_records(start, ends)

        return reached

    def _holds_records(self, start: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]) -> bool:
        # On Kafka the distance may be all ends of transactions and aborted records, which the store never sees.
        with closing(self._bus.reader([topics.PREDICTIONS], start)) as reader:
            deadline = time.monotonic() + LOOK_S
            while any(reader.positions()[place] < end for place, end in ends.items()):
                records = reader.poll(0.2)
                if time.monotonic() > deadline or any(r.offset < ends[TopicPartition(*r[:2])] for r in records):
                    return True
        return False
