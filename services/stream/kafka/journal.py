"""A producer with a durable place of its own: its mark is offset metadata of a group that has no members."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from services.stream.bus import Outgoing, TopicPartition
from services.stream.errors import Fenced, SlotTaken
from services.stream.kafka import client
from services.stream.kafka.client import WAIT_MS, mapped, offsets_of, place_of
from services.stream.kafka.transactions import Transactions

Prepare = Callable[[Sequence[Outgoing]], list[Outgoing]]
"""Checks sizes and chooses partitions."""


class KafkaJournal:
    """See `Journal`. `identity` is its transactional id and its group; the mark is kept at `place`."""

    def __init__(self, bootstrap: str, identity: str, place: TopicPartition, prepare: Prepare) -> None:
        self._bootstrap, self._identity, self._place, self._prepare = bootstrap, identity, place, prepare
        self._fenced = False
        self._count = 0
        self.mark = ""
        self._open()

    def _open(self) -> None:
        # The producer first: its start decides what an earlier holder left open, and only then is the mark certain.
        self._transactions = Transactions(self._bootstrap, self._identity)
        member = client.consumer(self._bootstrap, self._identity)
        try:
            with mapped():
                found = member.committed(place_of(self._place), metadata=True, timeout_ms=WAIT_MS)
        finally:
            member.close()
        self._count, self.mark = (found.offset, found.metadata) if found else (0, "")

    def publish(self, events: Sequence[Outgoing], mark: str) -> None:
        """See `Journal`. After a failure of unknown outcome, the same call again publishes only what isn't there.

        Raises:
            Fenced: another process opened the same journal later.
            Rejected: an event is larger than its topic takes; nothing was published.
            Transient: not known to be committed; call again with the same events and mark.
        """
        if self._fenced:
            raise Fenced(f"journal {self._identity} was opened by another process")
        ready = self._prepare(events)
        after = (self._count + max(1, len(ready)), mark)
        try:
            if not self._transactions.usable and self._reopened(after):
                return
            self._transactions.commit(ready, offsets_of({self._place: after}), client.group_only(self._identity))
        except SlotTaken as error:
            self._fenced = True
            raise Fenced(f"journal {self._identity}: {error}") from error
        self._count, self.mark = after

    def _reopened(self, after: tuple[int, str]) -> bool:
        before = (self._count, self.mark)
        self._open()
        if (self._count, self.mark) not in (before, after):
            raise SlotTaken("it was moved on by another process")
        return (self._count, self.mark) == after

    def close(self) -> None:
        """See `Journal`."""
        self._transactions.close()
