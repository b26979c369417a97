"""What ingest puts on the bus: a text on `texts.raw`, or what could not be read as one on its dead-letter topic."""

from __future__ import annotations

import json
from typing import Final, NamedTuple

from services.stream.bus import Outgoing
from services.stream.events import MAX_TEXT_CHARS, RawText, derived_id, encode, text_id
from services.stream.topics import MAX_DEAD_BYTES, MAX_EVENT_BYTES, RAW, dead

GROUP: Final = "ingest"
"""The `group` header of our dead letters, by which the account of texts tells them from those of `clean`."""

MAX_DETAIL_CHARS: Final = 1_000
MAX_ID_CHARS: Final = 500
MAX_SHORT_CHARS: Final = 2_000
"""Both as in `RawText`."""


class Problem(NamedTuple):
    """What could not be read as a text: a word for machines, a sentence for people, and the bytes as they came."""

    reason: str
    detail: str
    raw: bytes


def bounded(
    text: str, source: str, name: str | None, title: str | None, url: str | None, published: str | float | None
) -> RawText | Problem:
    """A text within the limits of `RawText`: a long id is hashed, a long title cut, a long address left out."""
    if len(text) > MAX_TEXT_CHARS:
        detail = f"{len(text):,} characters; a text may have {MAX_TEXT_CHARS:,}"
        return Problem("oversize", detail, text.encode("utf-8", "replace"))
    return RawText(
        text=text,
        source=source,
        id=derived_id(name) if name and len(name) > MAX_ID_CHARS else name or None,
        title=title[:MAX_SHORT_CHARS] if title else None,
        url=url if url and len(url) <= MAX_SHORT_CHARS else None,
        published=published,
    )


def outgoing(item: RawText | Problem, origin: str) -> Outgoing:
    """The event for `item`, which stood at `origin` (`file:line`): a dead letter when it is a problem or too large."""
    if isinstance(item, Problem):
        return _dead_letter(item, origin)
    value = encode(item)
    if len(value) > MAX_EVENT_BYTES:
        return _dead_letter(Problem("oversize", f"{len(value):,} bytes as an event", value), origin)
    return Outgoing(RAW, text_id(item).encode(), value)


def _dead_letter(problem: Problem, origin: str) -> Outgoing:
    headers = (
        ("reason", problem.reason.encode()),
        ("detail", problem.detail[:MAX_DETAIL_CHARS].encode("utf-8", "replace")),
        ("group", GROUP.encode()),
        ("origin", json.dumps(origin).encode()),
    )
    room = MAX_DEAD_BYTES - sum(len(name) + len(value) for name, value in headers)
    return Outgoing(dead(RAW), derived_id("problem", origin).encode(), problem.raw[:room], headers)
