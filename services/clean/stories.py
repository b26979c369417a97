"""Which text stands for a story: whole copies by their hash, cut-off ones by how they begin. See `duplicates`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from psycopg2.extensions import cursor as Cursor

from services.clean.claims import Candidate, Copy
from services.clean.fingerprint import Fingerprint

MAX_BEGUN: Final = 5_000
"""Stories looked through for cut-off copies; someone who floods one beginning costs recall, not time."""


class _Story(NamedTuple):
    text_id: str
    event_time: int
    fingerprint: Fingerprint


def place(cursor: Cursor, candidates: Sequence[Candidate], copies_ms: int) -> list[Copy | None]:
    """Give each new text its story: an earlier one less than `copies_ms` away in event time, or its own (None)."""
    known = _known(cursor, [one.fingerprint for one in candidates])
    added: dict[str, Candidate] = {}
    completed: dict[str, Fingerprint] = {}
    verdicts: list[Copy | None] = []
    for one in candidates:
        stories = known[one.fingerprint.anchor]
        found = next((at for at, story in enumerate(stories) if _is_copy(one, story, copies_ms)), None)
        if found is None:
            stories.append(_Story(one.text_id, one.event_time, one.fingerprint))
            added[one.text_id] = one
            verdicts.append(None)
            continue
        story = stories[found]
        exact = story.fingerprint.exact == one.fingerprint.exact
        verdicts.append(Copy("duplicate:exact" if exact else "duplicate:near", story.text_id))
        if one.fingerprint.covers(story.fingerprint):
            # The whole takes the cut-off text's place: else two wholes that begin alike were both copies of it.
            stories[found] = story._replace(fingerprint=one.fingerprint)
            if story.text_id in added:
                added[story.text_id] = added[story.text_id]._replace(fingerprint=one.fingerprint)
            else:
                completed[story.text_id] = one.fingerprint
    _insert(cursor, added.values())
    for text_id, whole in completed.items():
        cursor.execute(
            "UPDATE story SET exact = %s, length = %s, truncated = %s, prefixes = %s WHERE text_id = %s",
            (whole.exact, whole.length, whole.truncated, whole.prefixes, text_id),
        )
    return verdicts


def withdraw(cursor: Cursor, text_ids: Sequence[str]) -> None:
    """Forget what these texts told."""
    cursor.execute("DELETE FROM story WHERE text_id = ANY(%s)", (list(text_ids),))


def prune(cursor: Cursor, before_ms: int, limit: int) -> int:
    """Drop stories whose text arrived before `before_ms`, at most `limit`; how many. Copies don't prolong a story."""
    cursor.execute(
        "DELETE FROM story WHERE text_id IN (SELECT text_id FROM story WHERE seen < %s LIMIT %s)", (before_ms, limit)
    )
    return cursor.rowcount


def _is_copy(one: Candidate, story: _Story, copies_ms: int) -> bool:
    if abs(story.event_time - one.event_time) > copies_ms:
        return False
    mine, other = one.fingerprint, story.fingerprint
    return mine.exact == other.exact or mine.covers(other) or other.covers(mine)


def _known(cursor: Cursor, fingerprints: Sequence[Fingerprint]) -> defaultdict[int, list[_Story]]:
    """Stories these could be copies of, by anchor: the same whole, or one of the two is cut off."""
    columns = "text_id, event_time, exact, anchor, length, truncated, prefixes"
    cursor.execute(
        f"SELECT {columns} FROM story WHERE exact = ANY(%(exact)s::bytea[]) UNION SELECT * FROM ("  # noqa: S608 (constant)
        f"SELECT {columns} FROM story WHERE anchor = ANY(%(cut)s::bigint[])"
        " OR (truncated AND anchor = ANY(%(all)s::bigint[])) LIMIT %(limit)s) AS begun ORDER BY text_id",
        {
            "exact": [one.exact for one in fingerprints],
            "cut": [one.anchor for one in fingerprints if one.truncated],
            "all": [one.anchor for one in fingerprints],
            "limit": MAX_BEGUN,
        },
    )
    known: defaultdict[int, list[_Story]] = defaultdict(list)
    for text_id, event_time, exact, anchor, length, truncated, prefixes in cursor.fetchall():
        told = Fingerprint(bytes(exact), anchor, length, truncated, bytes(prefixes))
        known[anchor].append(_Story(text_id, event_time, told))
    return known


def _insert(cursor: Cursor, added: Iterable[Candidate]) -> None:
    rows = [(one.text_id, *one.fingerprint[:5], one.event_time, one.received) for one in added]
    if rows:
        cursor.execute(
            "INSERT INTO story (text_id, exact, anchor, length, truncated, prefixes, event_time, seen)"
            " SELECT * FROM unnest(%s::text[], %s::bytea[], %s::bigint[], %s::int[], %s::bool[], %s::bytea[],"
            " %s::bigint[], %s::bigint[])",
            [list(column) for column in zip(*rows, strict=True)],
        )
