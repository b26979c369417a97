"""Bytes of a request → texts: one JSON object, a JSON array, NDJSON. Each bad item is named, the rest taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
        Problem: 400 where the body as a whole, or every item, can't be read; 413 above `most`; 422 where there is no
            item, or each breaks a rule.
    """
    items = list(_items(body, media_type))
    if len(items) > most:
        raise Problem(413, "too-many-items", f"{len(items):,} texts in one request; it takes {most:,}")
    answer = Read([], [], [])
    for item in items:
        try:
            event, identity = _event(item.value)
        except Rejected as rejected:
            answer.refused.append(Refused(item.number, rejected.reason, rejected.detail, item.line))
        else:
            answer.accepted.append(Accepted(item.number, identity))
            answer.events.append(event)
    if not answer.accepted:
        raise _nothing(answer.refused)
    return answer


def _items(body: bytes, media_type: str) -> Iterator[_Item]:
    if media_type in NDJSON:
        lines = ((number, line.strip()) for number, line in enumerate(body.split(b"\n"), start=1))
        yield from (_Item(index, *entry) for index, entry in enumerate(entry for entry in lines if entry[1]))
    elif body.lstrip()[:1] == b"[":
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


def _nothing(refused: Sequence[Refused]) -> Problem:
    if not refused:
        return malformed('no text: send {"text": "…"}, an array of such objects, or one per line as NDJSON')
    unreadable = all(entry.reason == "malformed" for entry in refused)
    detail = refused[0].detail if len(refused) == 1 else f"none of {len(refused):,} texts was taken"
    named = list(refused[:NAMED_REFUSALS])
    return Problem(400 if unreadable else 422, "malformed" if unreadable else "invalid", detail, refused=named)
