"""The limit of failures of our own code: past it a service stops rather than throw a topic away.

A trip is stored, so that a restart doesn't clear it; `tickerloop dlq resume GROUP` does. Rejections don't count: a
stranger's bad records must not stop a service.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from services.stream.bus import Record, TopicPartition
from services.stream.database import Connect, transaction
from services.stream.errors import Tripped

RUN_LIMIT: Final = 20
"""Consecutive failures on one partition."""
RATIO_LIMIT: Final = 0.1
WINDOW: Final = 1_000
"""Latest records of a partition over which the ratio is taken, once half of them have been seen."""


class Trips:
    """Counts failures of one group's step per partition."""

    def __init__(self, connect: Connect, group: str) -> None:
        self._connect, self._group = connect, group
        self._runs: dict[TopicPartition, int] = {}
        self._counted: dict[TopicPartition, int] = {}
        self._recent: dict[TopicPartition, deque[bool]] = {}

    def check(self) -> None:
        """Refuse to start while a trip is stored.

        Raises:
            Tripped: with the reason and the command that clears it.
        """
        connection = self._connect()
        try:
            with transaction(connection), connection.cursor() as cursor:
                cursor.execute("SELECT reason FROM trip WHERE grp = %s", (self._group,))
                row = cursor.fetchone()
        finally:
            connection.close()
        if row is not None:
            raise Tripped(f"{row[0]}; when the cause is mended run `tickerloop dlq resume {self._group}`")

    def passed(self, records: Sequence[Record]) -> None:
        """These records went through."""
        for place, count in _by_place(records).items():
            self._runs[place] = 0
            self._recent.setdefault(place, deque(maxlen=WINDOW)).extend([False] * min(count, WINDOW))

    def failed(self, record: Record) -> None:
        """This record broke the step; it counts once, however often its batch is redone.

        Raises:
            Tripped: the limit is passed; stored before raising.
        """
        place = TopicPartition(record.topic, record.partition)
        if record.offset <= self._counted.get(place, -1):
            return
        self._counted[place] = record.offset
        self._runs[place] = self._runs.get(place, 0) + 1
        recent = self._recent.setdefault(place, deque(maxlen=WINDOW))
        recent.append(True)
        ratio = sum(recent) / len(recent)
        if self._runs[place] < RUN_LIMIT and not (len(recent) >= WINDOW / 2 and ratio > RATIO_LIMIT):
            return
        reason = (
            f"{self._group} failed on {self._runs[place]} records of {place.topic}[{place.partition}] in a row, "
            f"{ratio:.0%} of the last {len(recent)}, lately at offset {record.offset}"
        )
        connection = self._connect()
        try:
            with transaction(connection), connection.cursor() as cursor:
                cursor.execute(
                    "INSERT INTO trip (grp, reason) VALUES (%s, %s) ON CONFLICT (grp) DO NOTHING",
                    (self._group, reason),
                )
        finally:
            connection.close()
        raise Tripped(f"{reason}; when the cause is mended run `tickerloop dlq resume {self._group}`")


def _by_place(records: Sequence[Record]) -> dict[TopicPartition, int]:
    counts: dict[TopicPartition, int] = {}
    for record in records:
        place = TopicPartition(record.topic, record.partition)
        counts[place] = counts.get(place, 0) + 1
    return counts
