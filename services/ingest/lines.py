"""Bytes as lines, with the place after each: what CSV, JSON lines and plain lines share."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Final, NamedTuple

from services.stream.errors import Misconfigured
from services.stream.topics import MAX_DEAD_BYTES

SAMPLE_BYTES: Final = 65_536
"""How far a reader looks ahead to find out what the columns are."""

MAX_LINE_BYTES: Final = MAX_DEAD_BYTES
"""A longer line can't become an event; its beginning goes to the dead letters and the rest is passed over."""

BOM: Final = b"\xef\xbb\xbf"


class Place(NamedTuple):
    """Where to go on: `at` is an offset in the decompressed bytes (Parquet: a row), `line` how many lines lie before.

    `half` marks the place before a last line that had no line end: should the file grow, the line is read again, since
    it may have been half a line.
    """

    at: int = 0
    line: int = 0
    half: bool = False


class Line(NamedTuple):
    """One line with its end, and the place after it; `whole` is False for one that was cut at the limit."""

    raw: bytes
    after: Place
    whole: bool = True


def lines(stream: io.BufferedReader, start: Place) -> Iterator[Line]:
    """Lines from `start` on. The byte order mark is dropped.

    Raises:
        Misconfigured: the file is UTF-16, whose every line would be a problem.
    """
    at, line, _ = start
    if at:
        stream.seek(at)
    else:
        head = stream.peek(4)
        if head.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise Misconfigured("the file is UTF-16; convert it with `iconv -f UTF-16 -t UTF-8`")
        if head.startswith(BOM):
            at += len(stream.read(len(BOM)))
    while raw := stream.readline(MAX_LINE_BYTES):
        at, line = at + len(raw), line + 1
        whole = len(raw) < MAX_LINE_BYTES or raw.endswith(b"\n")
        if not whole:
            at += _skip_line(stream)
        yield Line(raw, Place(at, line), whole)
        if whole and not raw.endswith(b"\n"):
            return  # the end, even if the file grows at this moment: what comes now would be the rest of this line


def _skip_line(stream: io.BufferedReader) -> int:
    skipped = 0
    while part := stream.readline(SAMPLE_BYTES):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped


def sample(stream: io.BufferedReader) -> list[str]:
    """The file's first whole lines, decoded as well as they can be, without moving the stream.

    A file of one line may be cut short: it is then that line's beginning.
    """
    text = stream.peek(SAMPLE_BYTES)[:SAMPLE_BYTES].removeprefix(BOM).decode("utf-8", "replace")
    found = text.split("\n")
    return [line + "\n" for line in (found[:-1] if len(found) > 1 else found)]


def undecodable(raw: bytes, error: UnicodeDecodeError) -> str:
    """What to tell people about bytes that are not UTF-8."""
    return f"not UTF-8: byte 0x{raw[error.start]:02x} at position {error.start}"
