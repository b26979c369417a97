"""How an erased text is kept out: by keyed hashes, which are never forgotten.

A plain hash of a headline can be guessed: whoever has it tries headlines until one fits. The key lies in the same
database, so these hashes tell nothing to someone who has a copy of the table, or of an export, alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from typing import Literal, NamedTuple

from psycopg2.extensions import cursor as Cursor

from services.stream.events import RawText


class Mark(NamedTuple):
    """What a text is known again by: its id, what its source sent, or what cleaning left of that."""

    kind: Literal["id", "sent", "cleaned"]
    value: bytes


def content(raw: RawText) -> bytes:
    """Hash of what a source sent."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (raw.title or "", raw.text):
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.digest()


def refuse(cursor: Cursor, marks: Iterable[Mark]) -> None:
    """Never take a text again that has one of these marks."""
    cursor.execute("SELECT bytes FROM erased_key")
    (key,) = cursor.fetchone() or (b"",)
    cursor.execute(
        "INSERT INTO erased (hash) SELECT unnest(%s::bytea[]) ON CONFLICT DO NOTHING",
        ([_hash(bytes(key), mark) for mark in set(marks)],),
    )


def refused(cursor: Cursor, marks: Collection[Mark]) -> set[Mark]:
    """Those of `marks` that a text was erased by."""
    if not marks:
        return set()
    # While nothing was ever erased, no hash is computed.
    cursor.execute("SELECT bytes FROM erased_key WHERE EXISTS (SELECT FROM erased)")
    row = cursor.fetchone()
    if row is None:
        return set()
    hashes = {_hash(bytes(row[0]), mark): mark for mark in marks}
    cursor.execute("SELECT hash FROM erased WHERE hash = ANY(%s::bytea[])", (list(hashes),))
    return {hashes[bytes(found)] for (found,) in cursor.fetchall()}


def refused_ids(cursor: Cursor, text_ids: Collection[str]) -> set[str]:
    """Those of these texts that were erased."""
    return {mark.value.decode() for mark in refused(cursor, [identity(text_id) for text_id in text_ids])}


def identity(text_id: str) -> Mark:
    """The mark of a text's id."""
    return Mark("id", text_id.encode())


def _hash(key: bytes, mark: Mark) -> bytes:
    return hashlib.blake2b(mark.value, key=key, person=mark.kind.encode(), digest_size=16).digest()
