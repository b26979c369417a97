"""Finding a text and its copies in the topics that carry texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Final

from services.stream.bus import Bus, Record, read_to_end
from services.stream.errors import Rejected
from services.stream.events import ERASED, Event, Origin, RawText, decode, text_id
from services.stream.topics import CLEAN, RAW, REJECTED, dead

TOPICS: Final = (RAW, CLEAN, REJECTED, dead(RAW), dead(CLEAN), dead(REJECTED))
SENT: Final = frozenset((RAW, dead(RAW)))
"""What a source sent lies in these as it came."""


class Named(Event, frozen=True, kw_only=True):
    """What an event says of its text's identity."""

    text_id: str
    reason: str = ""
    duplicate_of: str | None = None
    origin: Origin | None = None

    @property
    def ids(self) -> set[str]:
        """The text's own, and that of the text it is a copy of."""
        return {self.text_id, self.duplicate_of or self.text_id}

    def made_from(self) -> list[Record]:
        """The place of the raw text, where the event tells it."""
        if self.origin is None:
            return []
        return [Record(self.origin.topic, self.origin.partition, self.origin.offset, 0, b"", b"")]


def named(record: Record) -> Named:
    """Of a raw text the id is derived: a client may have chosen any key. What can't be read is known by its key."""
    try:
        if record.topic in SENT:
            return Named(text_id=text_id(decode(RawText, record.value)))
        return decode(Named, record.value)
    except Rejected:
        return Named(text_id=record.key.decode("utf-8", "replace"))


def kept(bus: Bus, topics: Sequence[str]) -> Iterator[Record]:
    """Every record of `topics` that isn't erased, up to where they end now.

    Raises:
        Transient: see `read_to_end`.
    """
    ends = {place: end for topic in topics for place, end in bus.ends(topic).items()}
    with closing(bus.reader(topics)) as reader:
        yield from (record for record in read_to_end(reader, ends) if record.value != ERASED)


def copies(bus: Bus) -> list[tuple[str, str]]:
    """Text ids of copies, each with that of the text it is a copy of, as far as `texts.rejected` reaches back."""
    found = map(named, kept(bus, (REJECTED, dead(REJECTED))))
    return [(one.text_id, one.duplicate_of) for one in found if one.duplicate_of is not None]


def cluster(text_id: str, pairs: Iterable[tuple[str, str]]) -> set[str]:
    """The text and all that hold the same words: its copies, what it is a copy of, and that one's copies."""
    found, pairs = {text_id}, list(pairs)
    while more := {one for pair in pairs if not found.isdisjoint(pair) for one in pair} - found:
        found |= more
    return found
