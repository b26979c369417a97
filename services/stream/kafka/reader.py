"""Reading without a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from services.stream.bus import Record, TopicPartition
from services.stream.kafka import client
from services.stream.kafka.client import mapped, place_of, record_of


class KafkaReader:
    """See `Reader`. Positions pass over what readers never see: aborted records and the ends of transactions."""

    def __init__(self, bootstrap: str, start: Mapping[TopicPartition, int]) -> None:
        self._bootstrap = bootstrap
        self._positions = dict(start)
        self._client: Any = None

    def poll(self, timeout: float, max_records: int = 500) -> Sequence[Record]:
        """See `Reader`."""
        with mapped():
            polled = self._joined().poll(timeout_ms=int(timeout * 1000), max_records=max_records)
            for place in self._positions:
                self._positions[place] = self._client.position(place_of(place), timeout_ms=0) or self._positions[place]
        return [record_of(record) for records in polled.values() for record in records]

    def _joined(self) -> Any:
        if self._client is None:
            self._client = client.consumer(self._bootstrap)
            self._client.assign([place_of(place) for place in self._positions])
            for place, position in self._positions.items():
                self._client.seek(place_of(place), position)
        return self._client

    def positions(self) -> Mapping[TopicPartition, int]:
        """See `Reader`."""
        return dict(self._positions)

    def close(self) -> None:
        """See `Reader`."""
        if self._client is not None:
            self._client.close()
