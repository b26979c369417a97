"""`kit`: each test of the contract once on the embedded log and once on Kafka."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit import BaseKit, EmbeddedKit, set_session

from services.stream import membership


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def bus_kit(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BaseKit]:
    """An empty bus with the kit's topics. Sessions of the embedded log are shortened."""
    before = membership.SESSION_TIMEOUT_S, membership.BEAT_S
    kit: Any = EmbeddedKit(tmp_path, request.getfixturevalue("database"))
    set_session(kit.session_s)
    kit.bus().create_topics()
    yield kit
    kit.close()
    membership.SESSION_TIMEOUT_S, membership.BEAT_S = before  # type: ignore[misc]
