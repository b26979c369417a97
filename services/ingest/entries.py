"""A feed document → texts. Parsed in a process of its own, bounded in time and memory.

Feeds come from strangers, and their parsing runs through regular expressions and entity expansion: what a document can
make of them ends with that process. The document is handed over as a stream, since `feedparser.parse` takes a string
for an address or a file name and would open it.
"""

from __future__ import annotations

import io
import os
import resource
import subprocess
import sys
from calendar import timegm
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from services.ingest.envelope import Problem, bounded
from services.ingest.guard import Unreachable
from services.stream.events import RawText

PARSE_S: Final = 20
MEMORY_BYTES: Final = 1_500_000_000
"""Address space; feedparser needs a few hundred megabytes for the largest feed we take."""


class Parsed(msgspec.Struct):
    """A document's entries, in its own order."""

    texts: list[RawText]
    problems: list[Problem]


class _Document(msgspec.Struct):
    body: bytes
    content_type: str
    address: str
    source: str


def parse_apart(body: bytes, content_type: str, address: str, source: str) -> Parsed:
    """Parse a document fetched from `address`.

    Raises:
        Unreachable: it isn't a feed, or takes more time or memory than any feed needs.
    """
    document = msgspec.msgpack.encode(_Document(body, content_type, address, source))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "services.ingest.entries"],
            input=document,
            capture_output=True,
            timeout=2 * PARSE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unreachable(f"not parsed within {2 * PARSE_S} s") from None
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise Unreachable(f"can't be parsed: {last[0][:300]}")
    parsed = msgspec.msgpack.decode(done.stdout, type=Parsed | None)
    if parsed is None:
        raise Unreachable("neither RSS nor Atom")
    return parsed


def parse(document: _Document) -> Parsed | None:
    """Entries of a document; None if it isn't a feed. A broken feed gives what can be read of it."""
    import feedparser  # only this process pays for it

    found = feedparser.parse(
        io.BytesIO(document.body),
        response_headers={"content-type": document.content_type, "content-location": document.address},
    )
    if not found.get("version") and not found.entries:
        return None
    parsed = Parsed([], [])
    for entry in found.entries:
        _add(parsed, entry, document.source)
    return parsed


def _add(parsed: Parsed, entry: Any, source: str) -> None:
    title = _clean(entry.get("title"))
    content = entry.get("content") or [{}]
    text = _clean(content[0].get("value")) or _clean(entry.get("summary"))
    link = _clean(entry.get("link"))
    name = _clean(entry.get("id")) or link
    if not text and not title:
        parsed.problems.append(Problem("malformed", "an entry without title and text", name.encode()))
        return
    found = bounded(text or title, source, name, title if text else None, link, _published(entry))
    if isinstance(found, Problem):
        parsed.problems.append(found)
    else:
        parsed.texts.append(found)


def _clean(value: object) -> str:
    # Character references can name lone surrogates, which UTF-8 doesn't have.
    return value.encode("utf-8", "replace").decode().strip() if isinstance(value, str) else ""


def _published(entry: Any) -> str | None:
    parts = entry.get("published_parsed") or entry.get("updated_parsed")
    try:
        return datetime.fromtimestamp(timegm(parts), UTC).isoformat() if parts else None
    except (ValueError, OverflowError):
        return None


def main() -> None:
    """Read a document from standard input, write its entries to standard output."""
    resource.setrlimit(resource.RLIMIT_CPU, (PARSE_S, PARSE_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    os.nice(5)
    document = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=_Document)
    sys.stdout.buffer.write(msgspec.msgpack.encode(parse(document)))


if __name__ == "__main__":
    main()
