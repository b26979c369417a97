"""Which model learned from what."""

from __future__ import annotations

from collections.abc import Collection

from psycopg2.extensions import cursor as Cursor

from services.trainer import manifest


def learned(cursor: Cursor, version: str) -> list[str]:
    """Ids of the examples that the run which made `version` learned from; none of a model that no run here made.

    The parent's own answers to texts without a label, which a run learns from as well, are not told.
    """
    cursor.execute(
        "SELECT m.content FROM model_version v JOIN manifest m ON m.hash = v.card->>'dataset' WHERE v.version = %s",
        (version,),
    )
    row = cursor.fetchone()
    return [] if row is None else [entry.id for entry in manifest.decoded(row[0]).entries if entry.role == "learn"]


def learners(cursor: Cursor, examples: Collection[str]) -> list[str]:
    """Versions that learned from one of these examples, oldest first."""
    cursor.execute(
        "SELECT version FROM model_version v JOIN manifest m ON m.hash = v.card->>'dataset' ORDER BY v.created, version"
    )
    wanted = set(examples)
    return [version for (version,) in cursor.fetchall() if wanted.intersection(learned(cursor, version))]


def heirs(cursor: Cursor, versions: Collection[str]) -> list[str]:
    """Versions that were trained on from one of these, and those from them in turn; without these, oldest first."""
    cursor.execute(
        "WITH RECURSIVE heir AS (SELECT unnest(%(of)s::text[]) AS version"
        " UNION SELECT m.version FROM model_version m JOIN heir h ON m.parent = h.version)"
        " SELECT version FROM heir JOIN model_version USING (version) WHERE NOT version = ANY(%(of)s)"
        " ORDER BY created, version",
        {"of": list(versions)},
    )
    return [version for (version,) in cursor.fetchall()]


def nearest_clear(cursor: Cursor, version: str, of: Collection[str]) -> str | None:
    """`version`, or the nearest of those that it was trained on from that is none of `of`; None if there is none."""
    found: str | None = version
    while found is not None and found in of:
        cursor.execute("SELECT parent FROM model_version WHERE version = %s", (found,))
        (found,) = cursor.fetchone() or (None,)
    return found
