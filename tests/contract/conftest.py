"""`bus_kit`: each test of the contract once on the embedded log and once on Kafka."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka_broker import kafka_broker
from kit import BaseKit, EmbeddedKit, KafkaKit, set_session

from services.stream import membership
from services.stream.kafka import client

__all__ = ["kafka_broker"]


@pytest.fixture(autouse=True)
def _own_session_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """`set_session` changes these for the whole process: back to what they were after each test."""
    for module, name in ((membership, "SESSION_TIMEOUT_S"), (membership, "BEAT_S"), (client, "SESSION_MS")):
        monkeypatch.setattr(module, name, getattr(module, name))


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def bus_kit(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BaseKit]:
    """A bus with the kit's own, empty topics, and a database. Sessions are as short as the log allows."""
    kit: BaseKit = EmbeddedKit(tmp_path, request.getfixturevalue("database"))
    if request.param == "kafka":
        kit = KafkaKit(tmp_path, kit.url, request.getfixturevalue("kafka_broker").bootstrap)
    set_session(kit.session_s)
    kit.bus().create_topics()
    yield kit
    kit.close()
