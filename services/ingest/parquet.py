"""The reader for Parquet. A place is a row number; row groups before it are passed over by the file's metadata."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import Any, BinaryIO, Final

import msgspec
import pyarrow.parquet as pq
from pyarrow import ArrowException

from services.ingest.fields import Wanted, choose, item
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
                for number, values in enumerate(self._values(group, columns, skip), at + skip + 1):
                    raw = msgspec.json.encode(values, enc_hook=str)
                    yield Place(number, number), item(values, source, raw)
            at += count

    def _values(self, group: int, columns: tuple[str, ...], skip: int) -> Iterator[tuple[Any, ...]]:
        wanted = sorted({name for name in columns if name})
        try:
            for batch in self._file.iter_batches(BATCH_ROWS, row_groups=[group], columns=wanted):
                part = batch.slice(min(skip, len(batch)))
                skip -= len(batch) - len(part)
                yield from zip(
                    *(part.column(name).to_pylist() if name else repeat(None, len(part)) for name in columns),
                    strict=True,
                )
        except (ArrowException, OSError) as error:
            raise Misconfigured(f"the Parquet file is damaged: {error}") from None
