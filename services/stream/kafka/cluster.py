"""Questions to the cluster and orders to it: topics, offsets, groups. Safe to call from any thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

from services.stream.bus import TopicPartition
from services.stream.errors import Misconfigured, Transient
from services.stream.kafka import client
from services.stream.kafka.client import (
    IsolationLevel,
    OffsetSpec,
    kinds,
    mapped,
    offsets_of,
    place_of,
    translated,
)
from services.stream.topics import Topic

Answer = TypeVar("Answer")

SETTLE_S: Final = 5.0
KEY_ROOM: Final = 65_536
"""What a topic takes above its largest value: key, header names and the batch's own bytes."""
SEGMENTS: Final = 8
"""Retention drops whole segments, so what is to go after T is gone after T + T / 8."""
MIN_SEGMENT_MS: Final = 60_000


class Cluster:
    """An admin client that is made on first use and made anew after a lost connection."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._lock = threading.Lock()
        self._made: Any = None
        self._counts: dict[str, int] = {}
        self._id = ""

    def _ask(self, call: Callable[[Any], Answer]) -> Answer:
        """Call with the client, again while the broker is only settling (a coordinator or leader not yet chosen).

        Raises:
            Transient: it didn't settle; the next call connects anew.
        """
        until = time.monotonic() + SETTLE_S
        made = self._client()
        while True:
            try:
                with mapped():
                    return call(made)
            except Transient:
                if time.monotonic() > until:
                    self._drop(made)
                    raise
                time.sleep(0.05)

    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                self._made = client.admin(self._bootstrap)
            return self._made

    def _drop(self, made: Any) -> None:
        with self._lock:
            if self._made is made:
                self._made = None
        made.close()

    def close(self) -> None:
        """Free the connection."""
        if self._made is not None:
            self._drop(self._made)

    # ── topics ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def create(self, topics: Sequence[Topic], partitions: int) -> None:
        """Create what is missing; what is there takes its settings, retention among them.

        An existing topic keeps its partition count, since keys must not move.
        """
        present = set(self._ask(lambda admin: admin.list_topics()))
        missing = {t.name: _shape(t, partitions) for t in topics if t.name not in present}
        if missing:
            self._ask(lambda admin: _create(admin, missing))
        settings = {t.name: _configs(t) for t in topics if t.name in present}
        if settings:
            self._ask(lambda admin: client.alter_topics(admin, settings))

    def partitions(self, topic: str) -> int:
        """Number of partitions.

        Raises:
            Misconfigured: there is no such topic.
        """
        if topic not in self._counts:
            self._counts[topic] = len(self._topic(topic)["partitions"])
        return self._counts[topic]

    def topic_id(self, topic: str) -> str:
        """The id that a topic made anew under the same name doesn't have; asked for each time, for that reason."""
        return str(self._topic(topic)["topic_id"])

    def cluster_id(self) -> str:
        """Name of the cluster, given when its storage was formatted."""
        if not self._id:
            self._id = str(self._ask(lambda admin: admin.describe_cluster()["cluster_id"]))
        return self._id

    def places(self, topics: Sequence[str]) -> list[TopicPartition]:
        """Every partition of `topics`."""
        return [TopicPartition(topic, number) for topic in topics for number in range(self.partitions(topic))]

    def _topic(self, topic: str) -> dict[str, Any]:
        found: dict[str, Any] = self._ask(lambda admin: admin.describe_topics([topic])[0])
        kind = kinds.for_code(found["error_code"])
        if kind is kinds.UnknownTopicOrPartitionError:
            raise Misconfigured(f"the cluster has no topic {topic}: `tickerloop up` creates what is missing")
        if kind is not kinds.NoError:
            raise translated(kind(topic))
        return found

    # ── offsets ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def begins(self, topic: str) -> dict[TopicPartition, int]:
        """Oldest kept offset."""
        return self._offsets(topic, OffsetSpec.EARLIEST)

    def ends(self, topic: str) -> dict[TopicPartition, int]:
        """The last stable offset: what lies behind it waits for an open transaction."""
        return self._offsets(topic, OffsetSpec.LATEST)

    def offsets_at(self, topic: str, at_ms: int) -> dict[TopicPartition, int]:
        """First offset that arrived at or after `at_ms`, or the end."""
        ends = self.ends(topic)
        return {place: at if at >= 0 else ends[place] for place, at in self._offsets(topic, at_ms).items()}

    def _offsets(self, topic: str, at: int) -> dict[TopicPartition, int]:
        wanted = {place_of(place): at for place in self.places([topic])}
        level = IsolationLevel.READ_COMMITTED
        found = self._ask(lambda admin: admin.list_partition_offsets(wanted, isolation_level=level))
        return {TopicPartition(*place): answer.offset for place, answer in sorted(found.items())}

    # ── groups ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def committed(self, group: str, places: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, str]]:
        """Positions and marks for reports: a commit in flight isn't waited for, so never start a member from these."""
        wanted = {group: [place_of(place) for place in places]}
        found = self._ask(lambda admin: admin.list_group_offsets(wanted)[group])
        return {TopicPartition(*k): (v.offset, v.metadata or "") for k, v in found.items() if v.offset >= 0}

    def must_be_stopped(self, group: str) -> None:
        """Refuse what may only be done to a group without members.

        Raises:
            Transient: the group has live members; a killed one counts until its session runs out.
        """
        if self._ask(lambda admin: admin.describe_groups([group])[group]["members"]):
            raise Transient(f"group {group} has live members: stop them first")

    def move(self, group: str, positions: Mapping[TopicPartition, tuple[int, str]]) -> None:
        """Set the positions of a group without members.

        Raises:
            Fenced: a member has joined since.
        """
        offsets = offsets_of(positions)
        for kind in self._ask(lambda admin: set(admin.alter_group_offsets(group, offsets).values())) - {kinds.NoError}:
            raise translated(kind(group))


def _create(admin: Any, shapes: dict[str, Any]) -> None:
    with suppress(kinds.TopicAlreadyExistsError):  # by another process, since we looked
        admin.create_topics(shapes)
    admin.wait_for_topics(list(shapes))


def _shape(topic: Topic, partitions: int) -> dict[str, Any]:
    return {"num_partitions": 1 if topic.single else partitions, "configs": _configs(topic)}


def _configs(topic: Topic) -> dict[str, str]:
    retention = topic.retention_ms
    segments = {} if retention is None else {"segment.ms": str(max(MIN_SEGMENT_MS, retention // SEGMENTS))}
    return segments | {
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": str(topic.max_bytes + KEY_ROOM),
        # Strangers' producers may compress with codecs that this client lacks; the broker unpacks them.
        "compression.type": "uncompressed",
        "retention.bytes": "-1",
        "retention.ms": str(-1 if retention is None else retention),
    }
