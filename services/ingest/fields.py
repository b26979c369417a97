"""Which columns of a file mean what, and one row's values as a `RawText`."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from services.ingest.envelope import Problem, bounded
from services.stream.errors import Misconfigured
from services.stream.events import RawText

TEXT_NAMES: Final = ("text", "title", "headline", "content", "body", "sentence", "tweet")
TITLE_NAMES: Final = ("title", "headline")
URL_NAMES: Final = ("url", "link")
PUBLISHED_NAMES: Final = ("published", "date", "timestamp", "created_at")

_NUMBER: Final = re.compile(r"-?\d{1,15}(\.\d+)?")


class Wanted(NamedTuple):
    """What the person asked for; empty means: guess the text's column, do without an id."""

    text_field: str = ""
    id_field: str = ""


class Columns(NamedTuple):
    """The file's own names of the columns that are read; '' where it has none."""

    text: str
    id: str
    title: str
    url: str
    published: str


def choose(columns: Sequence[str], wanted: Wanted) -> Columns:
    """Find the columns, ignoring case and surrounding blanks.

    Raises:
        Misconfigured: no column fits; the message lists those that there are.
    """
    known: dict[str, str] = {}
    for name in columns:
        known.setdefault(name.strip().casefold(), name)
    text = _named(known, wanted.text_field, "--text-field") or _first(known, TEXT_NAMES)
    if not text:
        raise Misconfigured(
            f"no column holds the text: looked for {', '.join(TEXT_NAMES)}, found {', '.join(columns) or 'none'};"
            " name it with --text-field"
        )
    title = _first(known, TITLE_NAMES)
    return Columns(
        text,
        _named(known, wanted.id_field, "--id-field"),
        title if title != text else "",
        _first(known, URL_NAMES),
        _first(known, PUBLISHED_NAMES),
    )


def _named(known: dict[str, str], wanted: str, option: str) -> str:
    if not wanted:
        return ""
    name = known.get(wanted.strip().casefold())
    if name is None:
        raise Misconfigured(f"{option} {wanted!r} is not a column; there are {', '.join(known.values()) or 'none'}")
    return name


def _first(known: dict[str, str], names: Sequence[str]) -> str:
    return next((known[name] for name in names if name in known), "")


def build(values: Sequence[Any], source: str) -> RawText | Problem:
    """A text of one row's values, in the order of `Columns`; or what is wrong with them."""
    text, name, title, url, published = values
    if type(text) is not str:
        if isinstance(text, bytes):
            return Problem("encoding", "the text is not UTF-8", text)
        return Problem(
            "malformed", "the text is missing" if text is None else f"the text is of type {type(text).__name__}", b""
        )
    return bounded(text, source, _word(name), _word(title), _word(url), _time(published))


def item(values: Sequence[Any], source: str, raw: bytes) -> RawText | Problem:
    """As `build`, with the row's bytes kept when it is bad."""
    built = build(values, source)
    return built._replace(raw=raw or built.raw) if isinstance(built, Problem) else built


def _word(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return None if value is None or value == "" else str(value)


def _time(value: Any) -> str | int | float | None:
    if not value or isinstance(value, bool):
        return None
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            return value
        return float(value) if "." in value else int(value)
    if isinstance(value, int | float):
        return value
    return value.isoformat() if isinstance(value, dt.date) else None
