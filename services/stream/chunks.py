"""How the embedded log packs events into chunks: MessagePack arrays of (key, value, headers)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from services.stream.bus import Headers, Outgoing, Record, TopicPartition
from services.stream.events import ERASED

MAX_CHUNK_EVENTS: Final = 1_000
MAX_CHUNK_BYTES: Final = 4_000_000
"""Bounds a reader's memory: what it fetches is whole chunks. Above the largest single event."""

KEPT_HEADERS: Final = frozenset({"reason", "group", "origin"})
"""Of a dead letter: what the account of texts counts it by. Its `detail` may quote the text."""

_Packed = tuple[bytes, bytes, Headers]
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[_Packed])


class Chunk(NamedTuple):
    """Events of one partition, ready to append; `members` are their indexes in the published sequence."""

    place: TopicPartition
    payload: bytes
    members: list[int]


def pack(events: Sequence[Outgoing], places: Sequence[TopicPartition]) -> list[Chunk]:
    """Group events by partition, keeping their order, into chunks within the bounds."""
    groups: dict[TopicPartition, list[int]] = {}
    for index, place in enumerate(places):
        groups.setdefault(place, []).append(index)
    return [
        Chunk(place, _encoder.encode([(events[i].key, events[i].value, events[i].headers) for i in members]), members)
        for place, indexes in sorted(groups.items())
        for members in _split(events, indexes)
    ]


def _split(events: Sequence[Outgoing], indexes: Iterable[int]) -> Iterable[list[int]]:
    members: list[int] = []
    size = 0
    for index in indexes:
        weight = len(events[index].value)
        if members and (len(members) >= MAX_CHUNK_EVENTS or size + weight > MAX_CHUNK_BYTES):
            yield members
            members, size = [], 0
        members.append(index)
        size += weight
    if members:
        yield members


def unpack(place: TopicPartition, first: int, at_ms: int, payload: bytes, position: int) -> list[Record]:
    """Records of one chunk from `position` on; `first` is the chunk's first offset."""
    packed = _decoder.decode(payload)
    skip = max(0, position - first)
    return [Record(place.topic, place.partition, first + i, at_ms, *packed[i]) for i in range(skip, len(packed))]


def emptied(payload: bytes, first: int, offsets: Collection[int]) -> tuple[bytes, int]:
    """The payload of the chunk that begins at offset `first`, with these records erased; and how many weren't yet."""
    packed, count = _decoder.decode(payload), 0
    for at in sorted(offset - first for offset in offsets):
        key, value, headers = packed[at]
        count += value != ERASED
        packed[at] = key, ERASED, tuple(header for header in headers if header[0] in KEPT_HEADERS)
    return _encoder.encode(packed), count
