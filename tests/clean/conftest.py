"""A clean step on real servers, and raw records to feed it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import redis

from services.clean.pipeline import CleanSettings
from services.clean.worker import Clean
from services.stream import topics
from services.stream.bus import Record
from services.stream.database import connector
from services.stream.errors import Rejected

NOW = 1_760_000_000_000
_offsets = itertools.count()


def record(text: str, *, offset: int | None = None, partition: int = 0, at: int = NOW, **fields: Any) -> Record:
    """A raw text as the log has it."""
    offset = next(_offsets) if offset is None else offset
    value = json.dumps({"id": f"{partition}-{offset}", "text": text, "source": "test", **fields}).encode()
    return Record(topics.RAW, partition, offset, at, b"", value)


class Fates:
    """Runs a clean step and says what became of each record."""

    def __init__(self, step: Clean) -> None:
        self.step = step

    def __call__(self, *records: Record) -> list[str]:
        """`clean`, a reason of refusal, or `dead:` and the reason of a dead letter."""
        return [self._fate(answer) for answer in self.step(records)]

    @staticmethod
    def _fate(answer: Any) -> str:
        if isinstance(answer, Rejected):
            return f"dead:{answer.reason}"
        (event,) = answer
        body = msgspec.json.decode(event.value)
        assert event.key.decode() == body["text_id"]
        assert (event.topic == topics.CLEAN) == ("reason" not in body)
        return str(body.get("reason", "clean"))


@pytest.fixture
def new_step(database: str, valkey_url: str) -> Callable[[], Fates]:
    """Another worker on the same servers."""
    return lambda: Fates(Clean(connector(database, "clean"), redis.Redis.from_url(valkey_url), CleanSettings()))


@pytest.fixture
def step(new_step: Callable[[], Fates]) -> Fates:
    return new_step()
