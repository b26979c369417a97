"""Erasing an annotator."""

from __future__ import annotations

from contextlib import closing

import msgspec
from psycopg2.extensions import cursor as Cursor

from services import annotators, keys
from services.erasure.request import Erasure, Request, record, traced
from services.settings import Settings
from services.stream.database import transaction
from services.stream.errors import Rejected


def erase_annotator(settings: Settings, name: str, how: Request) -> Erasure:
    """Erase who `name` is: the name, the keys, the comments. The labels stay, under a pseudonym that leads to nobody,
    and no model learns from them any more.

    Raises:
        Rejected: nobody of that name has given feedback or has a key.
        Transient: the database is away; nothing was done.
    """
    with closing(settings.connector("erase")()) as connection, transaction(connection), connection.cursor() as cursor:
        pseudonym = annotators.known(cursor, name)
        held = [key for key in keys.every(cursor) if key.name == name]
        if pseudonym is None and not held:
            raise Rejected("unknown", f"nobody called {name} has given feedback or has a key")
        subjects = [] if pseudonym is None else [pseudonym]
        cursor.execute("SELECT example_id FROM example WHERE annotator = ANY(%s)", (subjects,))
        examples = [example for (example,) in cursor.fetchall()]
        found = {"annotator": len(subjects), "api_key": len(held), "comment": _comments(cursor, subjects)}
        erasure = traced(cursor, Erasure(kind="annotator", subjects=subjects, rows=found), examples, how)
        if decided := _decided(cursor, name):
            note = f"{decided} rows of the ledger and of erasures, which go on to name who decided"
            erasure = msgspec.structs.replace(erasure, notes=(note, *erasure.notes))
        if not how.dry:
            _delete(cursor, name, subjects)
            record(cursor, erasure, how.actor)
        return erasure


def _comments(cursor: Cursor, subjects: list[str]) -> int:
    cursor.execute("SELECT count(*) FROM comment WHERE annotator = ANY(%s)", (subjects,))
    (count,) = cursor.fetchone() or (0,)
    return int(count)


def _decided(cursor: Cursor, name: str) -> int:
    cursor.execute(
        "SELECT (SELECT count(*) FROM ledger WHERE actor = %s) + (SELECT count(*) FROM erasure WHERE actor = %s)",
        (name, name),
    )
    (count,) = cursor.fetchone() or (0,)
    return int(count)


def _delete(cursor: Cursor, name: str, subjects: list[str]) -> None:
    cursor.execute("DELETE FROM comment WHERE annotator = ANY(%s)", (subjects,))
    cursor.execute("DELETE FROM annotator WHERE name = %s", (name,))
    keys.delete(cursor, name)
