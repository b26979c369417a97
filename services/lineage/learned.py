"""Which model learned from what."""

from __future__ import annotations

from collections.abc import Collection

from psycopg2.extensions import cursor as Cursor


def learned(cursor: Cursor, version: str) -> list[str]:
    """Ids of the examples that the run which made `version` learned from; none of a model that no run here made.

    Of several words on one text the last counts, of those that were there when the run began; what was erased before it
    is no part of it. The parent's own answers to texts without a label, which a run learns from as well, are not told.
    """
    cursor.execute(
        "SELECT example_id FROM (SELECT DISTINCT ON (e.text_id) e.example_id, e.text_id, e.holdout"
        " FROM example e, (SELECT upto, started FROM training_run WHERE detail->>'version' = %s ORDER BY run LIMIT 1) r"
        " WHERE e.position <= r.upto AND NOT EXISTS (SELECT FROM erasure f WHERE f.at <= r.started"
        " AND (f.subjects @> ARRAY[e.text_id] OR f.subjects @> ARRAY[e.annotator]))"
        " ORDER BY e.text_id, e.given DESC, e.position DESC) taken WHERE NOT holdout ORDER BY text_id",
        (version,),
    )
    return [example for (example,) in cursor.fetchall()]


def learners(cursor: Cursor, examples: Collection[str]) -> list[str]:
    """Versions that learned from one of these examples, oldest first."""
    cursor.execute(
        "SELECT m.version FROM model_version m WHERE EXISTS"
        " (SELECT FROM training_run r WHERE r.detail->>'version' = m.version) ORDER BY m.created, m.version"
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
