"""The ledger as JSON lines, to be kept elsewhere and checked without a database."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import msgspec

from services.trainer.registry import LedgerRow, verify


def line(row: LedgerRow) -> str:
    """One row, in ASCII. By `json`, as its hash is made: whatever evidence it once took, it gives back."""
    return json.dumps(msgspec.structs.asdict(row))


def read(lines: Iterable[str]) -> tuple[list[LedgerRow], Sequence[str]]:
    """The rows of an export, and what is wrong with them; a line that holds none is named, and left out."""
    rows, unread = [], []
    for number, text in enumerate(lines, start=1):
        try:
            rows.append(msgspec.convert(json.loads(text), LedgerRow))
        except (ValueError, RecursionError, msgspec.ValidationError) as error:
            unread.append(f"line {number} holds no row of a ledger: {error}")
    return rows, [*unread, *verify(rows)]
