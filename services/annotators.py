"""Who an annotator is. Events and rows bear a pseudonym, which is random and means nothing without the table
`annotator`: so a person is erased from topics that are kept for ever, too, by deleting one row.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection

from psycopg2.extensions import cursor as Cursor

from services.runtime import now_ms


def pseudonym(cursor: Cursor, name: str) -> str:
    """That of `name`; a new one where it has none. Safe to repeat."""
    found = known(cursor, name)
    if found is not None:
        return found
    cursor.execute(
        "INSERT INTO annotator (pseudonym, name, created) VALUES (%s, %s, %s) ON CONFLICT (name) DO NOTHING",
        (secrets.token_hex(8), name, now_ms()),
    )
    return known(cursor, name) or pseudonym(cursor, name)  # erased between the two


def known(cursor: Cursor, name: str) -> str | None:
    """The pseudonym of `name`, if it has one."""
    cursor.execute("SELECT pseudonym FROM annotator WHERE name = %s", (name,))
    row = cursor.fetchone()
    return row[0] if row else None


def names(cursor: Cursor, pseudonyms: Collection[str]) -> dict[str, str]:
    """Names by pseudonym; those who were erased are missing."""
    cursor.execute("SELECT pseudonym, name FROM annotator WHERE pseudonym = ANY(%s)", (list(pseudonyms),))
    return dict(cursor.fetchall())
