"""What PostgreSQL and Valkey hold of a text, and taking it out of them."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from typing import Any, Final

import redis
from psycopg2.extensions import cursor as Cursor

from services.clean.near import PREFIX

HOLDS: Final = {
    "text": "FROM text WHERE text_id = ANY(%s)",
    "claim": "FROM claim WHERE text_id = ANY(%s)",
    "story": "FROM story WHERE text_id = ANY(%s)",
    "comment": "FROM comment WHERE text_id = ANY(%s)",
}
"""By table, what goes: the text, hashes of it, and what people wrote about it, who may have quoted it. Predictions,
labels and examples stay: they hold ids and numbers, and the record of what a model learned is made of them."""

SCANNED: Final = 1_000
"""Keys of Valkey that are looked at in one round trip."""


def count(cursor: Cursor, text_ids: Collection[str]) -> dict[str, int]:
    """Rows by table."""
    found = {}
    for table, rows in HOLDS.items():
        cursor.execute(f"SELECT count(*) {rows}", (list(text_ids),))
        (found[table],) = cursor.fetchone() or (0,)
    return found


def delete(cursor: Cursor, text_ids: Collection[str]) -> None:
    """Delete them."""
    for rows in HOLDS.values():
        cursor.execute(f"DELETE {rows}", (list(text_ids),))


def forget(valkey: redis.Redis, text_ids: Collection[str], tickers: Collection[str]) -> int:
    """Delete the keys by which near copies of these texts are known, and the newest sentiment of `tickers`, which the
    table has as well; how many.

    Raises:
        RedisError: Valkey is away.
    """
    ends = tuple(text_id.encode() for text_id in text_ids)
    gone = valkey.delete(*(f"latest:{ticker}" for ticker in tickers)) if tickers else 0
    keys = valkey.scan_iter(f"{PREFIX}*", SCANNED)
    while some := list(islice(keys, SCANNED)):
        values: list[Any] = valkey.mget(some)  # bytes, as the client isn't told to decode
        ours = [key for key, value in zip(some, values, strict=True) if value and value.endswith(ends)]
        gone += valkey.delete(*ours) if ours else 0
    return int(gone)
