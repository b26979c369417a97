"""Bytes of a request → texts: one JSON object, a JSON array, NDJSON. Each bad item is named, the rest taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import islice
from typing import Final, NamedTuple

import msgspec

from services.gateway.problems import Problem, malformed
from services.stream import topics
from services.stream.bus import Outgoing, check_size
from services.stream.errors import Rejected
from services.stream.events import RawText, decode, encode, text_id

NDJSON: Final = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})
NAMED_REFUSALS: Final = 1_000
"""Most refused items that one answer spells out; a body full of garbage needn't come back in full."""

COMMAS: Final = 500_000
BYTES_PER_COMMA: Final = 8
"""An array with more commas than `COMMAS` and than one in so many bytes is no batch of texts: `"k":"v",` is longer."""

_array = msgspec.json.Decoder(list[msgspec.Raw])


class Accepted(msgspec.Struct, frozen=True):
    """A text that is durable; `index` counts items from 0."""

    index: int
    text_id: str


class Refused(msgspec.Struct, frozen=True, omit_defaults=True):
    """An item that was not taken; `line` counts lines of NDJSON from 1."""

    index: int
    reason: str
    detail: str
    line: int | None = None


class Read(NamedTuple):
    """`events` run in parallel to `accepted`."""

    accepted: list[Accepted]
    refused: list[Refused]
    events: list[Outgoing]


class _Item(NamedTuple):
    number: int
    line: int | None
    value: bytes


def read(body: bytes, media_type: str, most: int) -> Read:
    """Parse and validate a body of at most `most` items.

    Raises:
        Problem: 400 where the body as a whole can't be read or holds no item; 413 above `most`.
    """
    items = list(islice(_items(body, media_type, most), most + 1))
    if len(items) > most:
        raise _too_many(most)
    if not items:
        raise malformed('no text: send {"text": "…"}, an array of such objects, or one per line as NDJSON')
    answer = Read([], [], [])
    for item in items:
        try:
            event, identity = _event(item.value)
        except Rejected as rejected:
            answer.refused.append(Refused(item.number, rejected.reason, rejected.detail, item.line))
        else:
            answer.accepted.append(Accepted(item.number, identity))
            answer.events.append(event)
    return answer


def _too_many(most: int) -> Problem:
    return Problem(413, "too-many-items", f"one request takes {most:,} texts")


def _items(body: bytes, media_type: str, most: int) -> Iterator[_Item]:
    if media_type in NDJSON:
        lines = ((number, line.strip()) for number, line in enumerate(BytesIO(body), start=1))
        yield from (_Item(index, *entry) for index, entry in enumerate(entry for entry in lines if entry[1]))
    elif body.lstrip()[:1] == b"[":
        # The decoder has no limit of its own: millions of items would stand in memory before they are counted.
        if body.count(b",") > max(COMMAS, len(body) // BYTES_PER_COMMA):
            raise _too_many(most)
        try:
            values = _array.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise malformed(f"not a JSON array in UTF-8: {error}") from None
        yield from (_Item(index, None, bytes(value)) for index, value in enumerate(values))
    elif body.strip():
        yield _Item(0, None, body)


def _event(value: bytes) -> tuple[Outgoing, str]:
    raw = decode(RawText, value)
    for name in ("source", "id"):
        if "\0" in (getattr(raw, name) or ""):
            raise Rejected("invalid", f"a NUL character - at `$.{name}`")
    identity = text_id(raw)
    event = Outgoing(topics.RAW, identity.encode(), encode(raw))
    check_size(event, topics.MAX_EVENT_BYTES)
    return event, identity


def nothing(refused: Sequence[Refused]) -> Problem:
    """Every item was refused: 400 where none could be read, else 422."""
    unreadable = all(entry.reason == "malformed" for entry in refused)
    detail = refused[0].detail if len(refused) == 1 else f"none of {len(refused):,} texts was taken"
    named = list(refused[:NAMED_REFUSALS])
    return Problem(400 if unreadable else 422, "malformed" if unreadable else "invalid", detail, refused=named)
