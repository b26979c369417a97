"""One member of a consumer group: what it owns, from where it reads, and which batches are still its to commit.

Positions are never left to the client. A partition that is gained or rewound is held (paused) until its committed
position has been looked up where its group keeps it, so that no record is read from a guess.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from services.stream.bus import TopicPartition
from services.stream.errors import Fenced, SlotTaken, Transient, Truncated
from services.stream.kafka import client
from services.stream.kafka.client import kinds, mapped, place_of

SLICE_S: Final = 0.1
"""Longest stay inside the client: a new assignment is looked up after it."""
LOOK_UP_MS: Final = 1_000
"""Wait for a position at most so long; one that a dying transaction holds is asked for again by the next poll."""


class Lease(NamedTuple):
    """One owned partition: its committed position and mark. `number` changes with each assignment and rewind."""

    number: int
    position: int
    mark: str


class Fetched(NamedTuple):
    """Records by partition, each with the position after them, and the membership that they were fetched under.

    A partition may have a position without records: all before it was committed, and what follows is for no reader.
    """

    records: Mapping[TopicPartition, Sequence[Any]]
    upto: Mapping[TopicPartition, int]
    membership: Any


Locate = Callable[[Any, Sequence[TopicPartition]], Mapping[TopicPartition, tuple[int, str]]]
"""Committed positions and marks, absent where the group never committed; the client is this member's."""


class Member:
    """Joins `group` under the static id `instance`."""

    def __init__(
        self, bootstrap: str, group: str, instance: str, topics: Sequence[str], max_records: int, locate: Locate
    ) -> None:
        self._group, self._instance, self._locate = group, instance, locate
        self._held: set[TopicPartition] = set()
        self._number = 0
        self._handed: dict[TopicPartition, int] = {}
        self.leases: dict[TopicPartition, Lease] = {}
        self._client = client.consumer(bootstrap, group, instance, max_records)
        self._client.subscribe(list(topics), listener=client.Watch(self._gained, self._lost))
        with mapped():
            self._client.topics()  # a leader that joins before it knows the partitions gives none away, and rejoins

    def poll(self, timeout: float) -> Fetched | None:
        """Wait up to `timeout` seconds for records, or for the end of what no reader sees.

        Raises:
            SlotTaken: another process has joined under the same static id.
            Truncated: a position lies before what retention kept.
        """
        until = time.monotonic() + timeout
        while True:
            self._settle()
            left = max(0.0, until - time.monotonic())
            fetched = self._fetch(min(left, SLICE_S))
            if fetched is not None or not left:
                return fetched

    def _fetch(self, timeout: float) -> Fetched | None:
        with mapped():
            polled = self._client.poll(timeout_ms=int(timeout * 1000))
            # Taken here, not at the commit: after a lost session it is (-1, ''), and the broker lets anyone pass.
            membership = self._client.group_metadata()
        if client.is_fenced(self._client):
            raise SlotTaken(f"another process has joined {self._group} as {self._instance}")
        records = {TopicPartition(*place): found for place, found in polled.items()}
        if records and membership.generation_id < 0:
            self.hold(records)
            return None
        # Past the end marks of transactions where the client has seen them, so that a drained partition shows no lag.
        upto = {place: self._after(place, found[-1].offset + 1) for place, found in records.items()}
        self._handed |= upto
        if not records and membership.generation_id >= 0:
            upto = self._passed()
        return Fetched(records, upto, membership) if upto else None

    def _after(self, place: TopicPartition, position: int) -> int:
        return max(position, self._client.position(place_of(place), timeout_ms=0) or 0)

    def _passed(self) -> dict[TopicPartition, int]:
        """Partitions whose records are all committed, and where the client stands behind end marks and aborted ones."""
        done = {place: at.position for place, at in self.leases.items() if at.position >= self._handed.get(place, 0)}
        after = {place: self._after(place, position) for place, position in done.items()}
        return {place: upto for place, upto in after.items() if upto > done[place]}

    def _settle(self) -> None:
        if not self._held:
            return
        places = sorted(self._held)
        with mapped():
            try:
                oldest = self._client.beginning_offsets([place_of(place) for place in places], timeout_ms=LOOK_UP_MS)
                found = self._locate(self._client, places)
            except (kinds.KafkaTimeoutError, Fenced):
                return
        for place in places:
            position, mark = found.get(place, (oldest[place_of(place)], ""))
            if position < oldest[place_of(place)]:
                raise Truncated(f"{place} stands at {position}, retention kept {oldest[place_of(place)]} and later")
            self._release(place, position, mark)

    def _release(self, place: TopicPartition, position: int, mark: str) -> None:
        self._number += 1
        self.leases[place] = Lease(self._number, position, mark)
        self._handed[place] = position
        self._client.seek(place_of(place), position)
        client.resume(self._client, place)
        self._held.discard(place)

    def hold(self, places: Iterable[TopicPartition]) -> None:
        """Read `places` again from their committed positions; batches read from them are void."""
        for place in {*places} & ({*self.leases} | self._held):
            self.leases.pop(place, None)
            self._pause(place)

    def _pause(self, place: TopicPartition) -> None:
        # The client looks up a position of its own wherever it has none.
        self._client.seek(place_of(place), 0)
        self._client.pause(place_of(place))
        self._held.add(place)

    def _gained(self, places: list[TopicPartition]) -> None:
        self._lost()
        for place in places:
            self._pause(place)

    def _lost(self) -> None:
        self.leases.clear()
        self._held.clear()

    def confirm(self) -> None:
        """Ask the group whether this member still belongs to it.

        Raises:
            SlotTaken: another process has joined under the same static id.
            Fenced: it must join again.
        """
        with mapped():
            client.beat(self._client)

    def keep(self) -> None:
        """Take part in the group without fetching. A broker that is away is the next poll's to tell."""
        with suppress(Transient), mapped():
            client.attend(self._client)

    def close(self) -> None:
        """Leave at once."""
        with suppress(Transient), mapped():
            client.leave(self._client, LOOK_UP_MS)
