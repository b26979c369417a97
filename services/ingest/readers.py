"""Readers of text formats: bytes → (place, text or problem). Pure; a bad line is a problem, never an end.

The place that comes with an item is where reading goes on once the item is published.
"""

from __future__ import annotations

import csv
import io
import re
from collections import deque
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any, Final

import msgspec

from services.ingest.envelope import Problem
from services.ingest.fields import Columns, Wanted, choose, item
from services.ingest.lines import Line, Place, lines, sample, undecodable
from services.stream.errors import Misconfigured
from services.stream.events import RawText

Item = tuple[Place, RawText | Problem]

DELIMITERS: Final = ",\t;|"
MAX_FIELD_CHARS: Final = 1_000_000
"""The largest field of a CSV row, and so how far a quote that nobody closes can reach."""

_DOCUMENT: Final = re.compile(r"\s*(?:\[\s*\{|[\[{]\s*\n)")

_TOO_LONG: Final = "longer than any event may be"

_decode_json = msgspec.json.Decoder().decode


def read_lines(stream: io.BufferedReader, start: Place, source: str) -> Iterator[Item]:
    """Each line that isn't blank is a text."""
    before = start
    for line in lines(stream, start):
        if line.raw.strip():
            yield _place(before, line), _plain(line, source)
        before = line.after


def _plain(line: Line, source: str) -> RawText | Problem:
    if not line.whole:
        return Problem("oversize", _TOO_LONG, line.raw)
    try:
        return RawText(text=line.raw.decode().strip(), source=source)
    except UnicodeDecodeError as error:
        return Problem("encoding", undecodable(line.raw, error), line.raw)


def _place(before: Place, line: Line) -> Place:
    if line.raw.endswith(b"\n") or not line.whole:
        return line.after
    return before._replace(half=True)


# ── JSON lines ──────────────────────────────────────────────────────────────────────────────────────────────────────


def read_json_lines(stream: io.BufferedReader, start: Place, source: str, wanted: Wanted) -> Iterator[Item]:
    """One object per line, each with its own keys.

    Raises:
        Misconfigured: none of the objects that the file starts with has a text, or it is one document of many lines.
    """
    if not start.at:
        _check_json_sample(sample(stream), wanted)
    known: dict[tuple[str, ...], Columns | str] = {}
    before = start
    for line in lines(stream, start):
        if line.raw.strip():
            yield _place(before, line), _json_item(line, source, wanted, known)
        before = line.after


def _json_item(
    line: Line, source: str, wanted: Wanted, known: dict[tuple[str, ...], Columns | str]
) -> RawText | Problem:
    if not line.whole:
        return Problem("oversize", _TOO_LONG, line.raw)
    try:
        line.raw.decode()
        found = _decode_json(line.raw)
    except UnicodeDecodeError as error:
        return Problem("encoding", undecodable(line.raw, error), line.raw)
    except (msgspec.DecodeError, RecursionError) as error:
        return Problem("malformed", f"not JSON: {error}", line.raw)
    if not isinstance(found, dict):
        return Problem("malformed", f"not a JSON object but {type(found).__name__}", line.raw)
    keys = tuple(found)
    if keys not in known:
        if len(known) > 1_000:  # keys that are data, such as a date each: remember no more of them
            known.clear()
        known[keys] = _columns(keys, wanted)
    columns = known[keys]
    if isinstance(columns, str):
        return Problem("malformed", columns, line.raw)
    return item([found[name] if name else None for name in columns], source, line.raw)


def _columns(keys: Sequence[str], wanted: Wanted) -> Columns | str:
    try:
        return choose(keys, wanted)
    except Misconfigured as error:
        return str(error)


def _check_json_sample(found: Sequence[str], wanted: Wanted) -> None:
    if _DOCUMENT.match("".join(found)):
        raise Misconfigured(
            "the file is one JSON document, not an object per line; `jq -c '.[]' FILE` makes lines of an array,"
            " `jq -c . FILE` one of an object"
        )
    objects: list[dict[str, Any]] = []
    for line in found:
        try:
            value = _decode_json(line)
        except (msgspec.DecodeError, RecursionError):
            continue
        if isinstance(value, dict):
            objects.append(value)
    if objects and all(isinstance(_columns(tuple(value), wanted), str) for value in objects):
        choose(tuple(objects[0]), wanted)


# ── CSV ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_csv(stream: io.BufferedReader, start: Place, source: str, wanted: Wanted) -> Iterator[Item]:
    """Rows under a header. Which of , tab ; | separates them is seen from the file's beginning.

    A row of another width than the header, or with a quote that nobody closes, is a problem of its first line only: the
    next row is looked for on the line after it.

    Raises:
        Misconfigured: none of the columns is the text's.
    """
    delimiter = sniff(sample(stream))
    rows = _Rows(lines(stream, Place()), delimiter)
    names, head = next(((row, line) for row, line in rows.read() if row), ([], None))
    if head is None:
        return
    if isinstance(names, Problem):
        raise Misconfigured(f"the header can't be read: {names.detail}")
    columns = choose(names, wanted)
    # -1 is the None that is put behind the fields of every row.
    pick = itemgetter(*(names.index(name) if name else -1 for name in columns))
    if start.at:
        rows = _Rows(lines(stream, start), delimiter)
    rows.width = len(names)
    before = start if start.at else head.after
    for row, last in rows.read():
        if isinstance(row, Problem):
            yield _place(before, last), row
        elif row:
            row.append(None)
            yield _place(before, last), item(pick(row), source, b"")
        before = last.after


def sniff(found: Sequence[str]) -> str:
    """The delimiter under which most rows of the sample are as wide as the first, which has more than one field."""

    def score(delimiter: str) -> tuple[int, int]:
        try:
            rows = [row for row in csv.reader(found, delimiter=delimiter) if row]
        except csv.Error:
            return 0, 0
        width = len(rows[0]) if rows else 0
        return (sum(len(row) == width for row in rows), width) if width > 1 else (0, 0)

    return max(DELIMITERS, key=score)


class _Rows:
    """CSV rows of lines. Rows of another width than `width` are problems, once it is set."""

    def __init__(self, found: Iterator[Line], delimiter: str) -> None:
        self._found, self._delimiter = found, delimiter
        self.width = 0
        self._waiting: deque[Line] = deque()
        self._held: list[Line] = []
        """The lines of the row in hand."""
        self._fault: tuple[str, str] | None = None
        csv.field_size_limit(MAX_FIELD_CHARS)

    def read(self) -> Iterator[tuple[list[Any] | Problem, Line]]:
        """Every row with its last line; an empty row for a blank line."""
        while True:
            try:
                for row in csv.reader(self._feed(), delimiter=self._delimiter, strict=True):
                    checked = self._checked(row)
                    last = self._held[-1]
                    self._held.clear()
                    yield checked, last
                return
            except csv.Error as error:
                problem = self._first_line(f"not CSV: {error}")
                last = self._held.pop()
                yield problem, last

    def _checked(self, row: list[str]) -> list[str] | Problem:
        if self._fault:
            (reason, detail), self._fault = self._fault, None
            return Problem(reason, detail, b"".join(line.raw for line in self._held))
        if len(row) == 1 and not row[0].strip():
            return []
        if row and self.width and len(row) != self.width:
            return self._first_line(f"{len(row)} fields; the header has {self.width}")
        return row

    def _first_line(self, detail: str) -> Problem:
        """Blame the first line of the row in hand; the others are read again."""
        self._fault = None
        first, *rest = self._held
        self._waiting.extendleft(reversed(rest))
        self._held = [first]
        return Problem("malformed", detail, first.raw)

    def _feed(self) -> Iterator[str]:
        while line := self._waiting.popleft() if self._waiting else next(self._found, None):
            self._held.append(line)
            try:
                text = line.raw.decode()
            except UnicodeDecodeError as error:
                text = line.raw.decode("utf-8", "replace")
                self._fault = "encoding", undecodable(line.raw, error)
            if not line.whole:
                self._fault = "oversize", _TOO_LONG
            yield text
