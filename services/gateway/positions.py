"""The live stream's event ids: a position in every partition, so that a client resumes exactly where it stopped.

`0:12-1:40-m:3` reads: go on at offset 12 of partition 0 and 40 of partition 1 of `predictions`, and at 3 of `models`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from services.gateway.problems import invalid
from services.stream.bus import TopicPartition
from services.stream.topics import MODELS, PREDICTIONS

_PART: Final = re.compile(r"(m|\d{1,5}):(\d{1,18})", re.ASCII)
_MODELS_PLACE: Final = TopicPartition(MODELS, 0)
MAX_LENGTH: Final = 20_000

Positions = Mapping[TopicPartition, int]
"""Next offset to read, per partition of `predictions` and `models`."""


def encode_positions(positions: Positions) -> str:
    """An event id."""
    return "-".join(
        f"{'m' if place.topic == MODELS else place.partition}:{offset}" for place, offset in sorted(positions.items())
    )


def decode_positions(text: str) -> dict[TopicPartition, int]:
    """The inverse of `encode_positions`.

    Raises:
        Problem: 400, it isn't one of ours.
    """
    found: dict[TopicPartition, int] = {}
    for part in text.split("-") if len(text) <= MAX_LENGTH else [""]:
        match = _PART.fullmatch(part)
        if match is None:
            raise invalid("Last-Event-ID", "not an id of this stream, which look like 0:12-1:40-m:3", "header")
        name, offset = match.groups()
        found[_MODELS_PLACE if name == "m" else TopicPartition(PREDICTIONS, int(name))] = int(offset)
    return found


def kept(wanted: Positions, begins: Positions, ends: Positions) -> tuple[dict[TopicPartition, int], bool]:
    """Where a client that wants to go on from `wanted` really starts, and whether events are lost to it.

    A partition it doesn't name starts at its end. A position past the end is another log's: that starts at the end too.
    """
    start = {place: min(max(wanted.get(place, end), begins.get(place, 0)), end) for place, end in ends.items()}
    return start, any(start[place] != offset for place, offset in wanted.items() if place in start)
