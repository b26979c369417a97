"""The reader for Parquet. A place is a row number; row groups before it are passed over by the file's metadata."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import Any, BinaryIO, Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import ArrowException

from services.ingest.envelope import Problem
from services.ingest.fields import Wanted, build, choose
from services.ingest.lines import Place
from services.ingest.readers import Item
from services.stream.errors import Misconfigured

BATCH_ROWS: Final = 2_000


class Table:
    """An open Parquet file."""

    def __init__(self, stream: BinaryIO) -> None:
        try:
            self._file = pq.ParquetFile(stream)
        except (ArrowException, OSError) as error:
            raise Misconfigured(f"not a Parquet file: {error}") from None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self._file.metadata.num_rows)

    def read(self, start: Place, source: str, wanted: Wanted) -> Iterator[Item]:
        """Texts from row `start.at` on.

        Raises:
            Misconfigured: no column holds the text, or the file is damaged.
        """
        columns = choose(self._file.schema_arrow.names, wanted)
        at = 0
        for group in range(self._file.metadata.num_row_groups):
            count = self._file.metadata.row_group(group).num_rows
            if at + count > start.at:
                skip = max(0, start.at - at)
                for number, values in enumerate(self._rows(group, columns, skip), at + skip + 1):
                    found = build(values, source)
                    if isinstance(found, Problem):
                        found = found._replace(raw=msgspec.json.encode(values, enc_hook=str))
                    yield Place(number, number), found
            at += count

    def _rows(self, group: int, columns: tuple[str, ...], skip: int) -> Iterator[tuple[Any, ...]]:
        wanted = sorted({name for name in columns if name})
        try:
            for batch in self._file.iter_batches(BATCH_ROWS, row_groups=[group], columns=wanted):
                part = batch.slice(min(skip, len(batch)))
                skip -= len(batch) - len(part)
                at = part.schema.names.index  # of two columns of one name the first, as in CSV
                yield from zip(
                    *(_values(part.column(at(name))) if name else repeat(None, len(part)) for name in columns),
                    strict=True,
                )
        except (ArrowException, OSError) as error:
            raise Misconfigured(f"the Parquet file is damaged: {error}") from None


def _values(column: pa.Array) -> list[Any]:
    """Bytes for a string that isn't UTF-8, None for a time that Python doesn't have."""
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError):
        return [_value(value) for value in column]


def _value(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return value.cast(pa.binary()).as_py()
    except (ValueError, OverflowError):
        return None
