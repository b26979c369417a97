"""Where a sinking group stands: rows that advance in the transaction of what the sink writes, by compare-and-set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from psycopg2.extensions import cursor as Cursor

from services.stream.bus import TopicPartition
from services.stream.errors import Fenced
from services.stream.kafka.cluster import Cluster

_READ = "SELECT partition, position, mark FROM log.sink_position WHERE cluster = %s AND grp = %s AND topic_id = %s"

# Rows are locked in the order of their key, so that two members can't deadlock. A row that isn't there yet is inserted;
# of two members that both think so, one waits for the other and then finds its position gone.
_ADVANCE = """
INSERT INTO log.sink_position AS s (cluster, grp, topic_id, topic, partition, position, mark)
SELECT %s, %s, v.* FROM unnest(%s::text[], %s::text[], %s::int[], %s::bigint[], %s::text[]) AS v
ON CONFLICT (cluster, topic_id, partition, grp) DO UPDATE SET position = excluded.position, mark = excluded.mark
WHERE s.position = (
    SELECT f.position FROM unnest(%s::text[], %s::int[], %s::bigint[]) AS f (topic_id, partition, position)
    WHERE f.topic_id = s.topic_id AND f.partition = s.partition
)
"""

_MOVE = """
INSERT INTO log.sink_position AS s (cluster, grp, topic_id, topic, partition, position)
VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (cluster, topic_id, partition, grp) DO UPDATE SET position = excluded.position
"""


class Advance(NamedTuple):
    """One partition's step: from where it was read, to where it stands after it, with its mark."""

    start: int
    upto: int
    mark: str


class SinkPositions:
    """Positions of one group on one cluster."""

    def __init__(self, cluster: Cluster, group: str) -> None:
        self._cluster, self._group = cluster, group

    def read(self, cursor: Cursor, topic: str, topic_id: str) -> dict[TopicPartition, tuple[int, str]]:
        """Position and mark of each partition that the group has sunk; empty for a group that doesn't sink."""
        cursor.execute(_READ, (self._cluster.cluster_id(), self._group, topic_id))
        return {TopicPartition(topic, number): (at, mark) for number, at, mark in cursor.fetchall()}

    def advance(self, cursor: Cursor, steps: Mapping[TopicPartition, Advance], ids: Mapping[str, str]) -> None:
        """Advance all of `steps` or none; `ids` are the topics' ids of when the positions were read.

        Raises:
            Fenced: another member has committed some of it.
        """
        places = sorted(steps, key=lambda place: (ids[place.topic], place.partition))
        keys = [ids[place.topic] for place in places]
        numbers = [place.partition for place in places]
        done = [steps[place] for place in places]
        cursor.execute(
            _ADVANCE,
            (
                self._cluster.cluster_id(),
                self._group,
                keys,
                [place.topic for place in places],
                numbers,
                [step.upto for step in done],
                [step.mark for step in done],
                keys,
                numbers,
                [step.start for step in done],
            ),
        )
        if cursor.rowcount != len(places):
            raise Fenced(f"{self._group}: another member has committed part of {places}")

    def move(self, cursor: Cursor, positions: Mapping[TopicPartition, int]) -> None:
        """Set positions; a live member's next commit then finds its own gone."""
        for place, position in sorted(positions.items()):
            key = self._cluster.topic_id(place.topic)
            cursor.execute(
                _MOVE, (self._cluster.cluster_id(), self._group, key, place.topic, place.partition, position)
            )
