"""Identity: which record a text id belongs to, and what became of that record. See `duplicates` for the transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from psycopg2.extensions import cursor as Cursor

from services.clean.fingerprint import Fingerprint
from services.stream.events import Origin


class Candidate(NamedTuple):
    """A text that asks to be the one that is scored."""

    text_id: str
    content: bytes
    """Hash of what the source sent."""
    origin: Origin
    event_time: int
    received: int
    fingerprint: Fingerprint


class Copy(NamedTuple):
    """Why a text is not scored: `duplicate:id`, `id_reused`, `duplicate:exact`, `duplicate:near`; and of which text."""

    reason: str
    of: str


class Claims(NamedTuple):
    """What is known of each candidate, in order; `new` are the places of those about whom nothing is."""

    verdicts: list[Copy | None]
    new: list[int]


def claim(cursor: Cursor, candidates: Sequence[Candidate]) -> Claims:
    """Claim every id that is free; a redo of a record gets the verdict it got then."""
    first: dict[str, Candidate] = {}
    for one in candidates:
        first.setdefault(one.text_id, one)
    rows = [(one.text_id, one.content, *_position(one), one.received) for one in first.values()]
    cursor.execute(
        'INSERT INTO claim (text_id, content, topic, partition, "offset", claimed_at)'
        " SELECT * FROM unnest(%s::text[], %s::bytea[], %s::text[], %s::int[], %s::bigint[], %s::bigint[])"
        " ON CONFLICT DO NOTHING RETURNING text_id",
        [list(column) for column in zip(*rows, strict=True)],
    )
    fresh = {text_id for (text_id,) in cursor.fetchall()}
    cursor.execute(
        'SELECT text_id, content, reason, copy_of, topic, partition, "offset" FROM claim WHERE text_id = ANY(%s)',
        (list(first),),
    )
    holders = {text_id: rest for text_id, *rest in cursor.fetchall()}
    verdicts: list[Copy | None] = []
    new: list[int] = []
    for at, one in enumerate(candidates):
        content, reason, copy_of, *position = holders[one.text_id]
        if bytes(content) != one.content:
            verdicts.append(Copy("id_reused", one.text_id))
        elif tuple(position) != _position(one):
            verdicts.append(Copy("duplicate:id", one.text_id))
        else:
            verdicts.append(Copy(reason, copy_of) if reason else None)
            if one.text_id in fresh:
                new.append(at)
    return Claims(verdicts, new)


def settle(cursor: Cursor, copies: Mapping[str, Copy]) -> None:
    """Store the verdicts on claimed texts that are copies, by text id."""
    if copies:
        cursor.execute(
            "UPDATE claim SET reason = v.reason, copy_of = v.copy_of"
            " FROM unnest(%s::text[], %s::text[], %s::text[]) AS v (text_id, reason, copy_of)"
            " WHERE claim.text_id = v.text_id",
            (list(copies), [copy.reason for copy in copies.values()], [copy.of for copy in copies.values()]),
        )


def release(cursor: Cursor, candidates: Sequence[Candidate]) -> list[str]:
    """Free the ids that these records hold; which."""
    rows = [(one.text_id, *_position(one)) for one in candidates]
    cursor.execute(
        "DELETE FROM claim USING unnest(%s::text[], %s::text[], %s::int[], %s::bigint[]) AS v (id, topic, part, at)"
        ' WHERE (claim.text_id, claim.topic, claim.partition, claim."offset") = (v.id, v.topic, v.part, v.at)'
        " RETURNING claim.text_id",
        [list(column) for column in zip(*rows, strict=True)],
    )
    return [text_id for (text_id,) in cursor.fetchall()]


def prune(cursor: Cursor, before_ms: int, limit: int) -> int:
    """Forget ids that were claimed before `before_ms`, at most `limit`, and none that tells a story; how many."""
    cursor.execute(
        "DELETE FROM claim WHERE text_id IN (SELECT text_id FROM claim WHERE claimed_at < %s"
        " AND NOT EXISTS (SELECT FROM story WHERE story.text_id = claim.text_id) LIMIT %s)",
        (before_ms, limit),
    )
    return cursor.rowcount


def _position(one: Candidate) -> tuple[str, int, int]:
    return one.origin.topic, one.origin.partition, one.origin.offset
