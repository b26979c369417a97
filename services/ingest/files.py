"""Opening what a path names: format by its ending, gzip or not, standard input; and the reader that goes with it."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Final, Literal, NamedTuple, cast

from services.ingest.fields import Wanted
from services.ingest.lines import SAMPLE_BYTES, Place
from services.ingest.readers import Item, read_csv, read_json_lines, read_lines
from services.stream.errors import Misconfigured

Format = Literal["csv", "jsonl", "parquet", "lines"]

STDIN: Final = "-"
GZIP_MAGIC: Final = b"\x1f\x8b"
GZIP_ERRORS: Final = (EOFError, gzip.BadGzipFile, zlib.error)

ENDINGS: Final[dict[str, Format]] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "lines",
    ".text": "lines",
    ".log": "lines",
}


class Opened(NamedTuple):
    """A source ready to be read. `fraction` is how much of it lies behind `place`; None where nobody can know."""

    items: Iterator[Item]
    fraction: Callable[[Place], float | None]


def format_of(path: str) -> Format:
    """The format by the name's ending, `.gz` set aside.

    Raises:
        Misconfigured: the ending says nothing; the message names `--format`.
    """
    endings = [ending.lower() for ending in Path(path).suffixes if ending.lower() != ".gz"]
    if path == STDIN or not endings or endings[-1] not in ENDINGS:
        name = "standard input" if path == STDIN else f"the name {Path(path).name!r}"
        raise Misconfigured(f"{name} doesn't tell the format; give --format csv, jsonl, parquet or lines")
    return ENDINGS[endings[-1]]


def printable(path: str) -> str:
    """The path as UTF-8 has it; the bytes of a name that isn't UTF-8 are written out."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def is_pipe(path: str) -> bool:
    """Whether what is read there is gone once it is read: there is no place to go on from."""
    return path == STDIN or not Path(path).is_file()


def open_source(path: str, kind: Format, source: str, wanted: Wanted, start: Place, held: ExitStack) -> Opened:
    """Open `path` and begin at `start`; `held` closes what was opened.

    Raises:
        Misconfigured: the file can't be opened or isn't what `kind` says.
    """
    try:
        file = Path(path)
        raw = sys.stdin.buffer if path == STDIN else held.enter_context(file.open("rb", SAMPLE_BYTES))
        size = 0 if is_pipe(path) else file.stat().st_size
        stream = _unpacked(raw)
        if kind == "parquet":
            return _parquet(held.enter_context(_seekable(stream)), source, wanted, start)
    except (OSError, *GZIP_ERRORS) as error:
        raise Misconfigured(
            f"{printable(path)}: {error.strerror if isinstance(error, OSError) and error.strerror else error}"
        ) from None
    packed = stream is not raw
    items = _guarded(_items(stream, kind, source, wanted, start))
    if not size:
        return Opened(items, lambda _: None)
    return Opened(items, lambda place: (raw.tell() if packed else place.at) / size)


def _unpacked(raw: BinaryIO) -> io.BufferedReader:
    buffered = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(cast(io.RawIOBase, raw), SAMPLE_BYTES)
    if buffered.peek(2)[:2] == GZIP_MAGIC:
        return io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=buffered)), SAMPLE_BYTES)
    return buffered


def _seekable(stream: io.BufferedReader) -> BinaryIO:
    """Parquet's index lies at its end: what can't be sought goes through a temporary file."""
    if isinstance(stream.raw, io.FileIO) and stream.seekable():
        return stream
    spooled = tempfile.TemporaryFile()  # noqa: SIM115 (the caller's stack closes it)
    shutil.copyfileobj(stream, spooled)
    spooled.seek(0)
    return spooled


def _parquet(stream: BinaryIO, source: str, wanted: Wanted, start: Place) -> Opened:
    from services.ingest.parquet import Table  # pyarrow takes a third of a second to import

    table = Table(stream)
    return Opened(table.read(start, source, wanted), lambda place: place.at / max(1, table.rows))


def _items(stream: io.BufferedReader, kind: Format, source: str, wanted: Wanted, start: Place) -> Iterator[Item]:
    if kind == "lines":
        return read_lines(stream, start, source)
    reader = read_csv if kind == "csv" else read_json_lines
    return reader(stream, start, source, wanted)


def _guarded(items: Iterator[Item]) -> Iterator[Item]:
    try:
        yield from items
    except (OSError, *GZIP_ERRORS) as error:
        raise Misconfigured(f"the file is damaged or cut short: {error}") from None
