"""What is remembered of a file: how far its texts are on the bus. It travels with them, in the same transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from services.ingest.batches import Batch
from services.ingest.envelope import outgoing
from services.ingest.fields import Wanted
from services.ingest.lines import Place
from services.ingest.readers import Item
from services.stream.events import derived_id

HEAD_BYTES: Final = 65_536
TAIL_BYTES: Final = 8_192


class Mark(msgspec.Struct, frozen=True, omit_defaults=True):
    """Stored as JSON; Kafka keeps at most 4,096 bytes of it."""

    hash: str
    """Of the file's first `head` bytes and of the last ones before `size`: a file that only grew keeps them."""
    head: int
    size: int
    """The file's size when this run opened it."""
    run: int = 0
    """Counts beginnings, so that the marks of two runs through the same file differ."""
    at: int = 0
    line: int = 0
    half: str = ""
    """Hash of the event made from a last line without a line end (`Place.half`)."""
    texts: int = 0
    dead: int = 0
    done: bool = False

    def encoded(self) -> str:
        """As the journal stores it."""
        return msgspec.json.encode(self).decode()

    @property
    def place(self) -> Place:
        """Where to go on."""
        return Place(self.at, self.line, bool(self.half))


class Start(NamedTuple):
    """How a run begins: its first mark, and what to tell people about it ('' for an ordinary beginning)."""

    mark: Mark
    already: bool
    note: str


def journal_name(path: str, kind: str, source: str, wanted: Wanted) -> str:
    """One journal per file and per reading of it: other options give other ids, so their texts are others."""
    return "file." + derived_id("file", str(Path(path).resolve()), kind, source, *wanted)


def begin(path: str, stored: str, again: bool) -> Start:
    """Decide from the stored mark and the file as it is now where to begin."""
    size = Path(path).stat().st_size
    head = min(size, HEAD_BYTES)
    digest = fingerprint(path, head, size)
    if not stored:
        return Start(Mark(digest, head, size), False, "")
    known = msgspec.json.decode(stored, type=Mark)
    fresh = Mark(digest, head, size, known.run + 1)
    if again:
        return Start(fresh, False, "reading it again from the beginning")
    if size < known.size or fingerprint(path, known.head, known.size) != known.hash:
        return Start(fresh, False, "the file was changed since: reading it as a new one")
    going_on = msgspec.structs.replace(known, hash=digest, head=head, size=size, done=False)
    if not known.done:
        return Start(going_on, False, f"going on after line {known.line:,}")
    if size == known.size:
        return Start(known, True, f"already ingested ({known.texts:,} texts); --again reads it again")
    return Start(going_on, False, f"the file has grown: going on after line {known.line:,}")


def moved(mark: Mark, batch: Batch) -> Mark:
    """The mark after `batch`."""
    if not batch.events:
        return msgspec.structs.replace(mark, done=batch.last)
    return msgspec.structs.replace(
        mark,
        at=batch.place.at,
        line=batch.place.line,
        half=_digest_of_last_line(batch.events[-1].value) if batch.place.half else "",
        texts=mark.texts + batch.texts,
        dead=mark.dead + len(batch.events) - batch.texts,
        done=batch.last,
    )


def without_known(items: Iterator[Item], half: str) -> Iterator[Item]:
    """Pass over the first item where it is the last line read before, which has got its line end and nothing else."""
    for number, (place, found) in enumerate(items):
        if number or not half or _digest_of_last_line(outgoing(found, "").value) != half:
            yield place, found


def fingerprint(path: str, head: int, size: int) -> str:
    """Hash of the first `head` bytes and of the last ones of the first `size`."""
    with Path(path).open("rb") as file:
        begun = file.read(head)
        file.seek(max(0, size - TAIL_BYTES))
        return _digest(begun + file.read(min(size, TAIL_BYTES)))


def _digest_of_last_line(value: bytes) -> str:
    return _digest(value.rstrip(b"\r\n"))


def _digest(value: bytes) -> str:
    return hashlib.blake2b(value, digest_size=16).hexdigest()
