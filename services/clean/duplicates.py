"""What was seen before: identity and copies, claimed durably, so that of a cluster of copies exactly one is scored.

Where each claim lies, and why:
- *Identity* (table `claim`) and *whole or cut-off copies* (table `story`) are in PostgreSQL. A copy scored twice is
  counted twice in every aggregate, so a wiped cache must not bring it about; and the claims share a transaction, so
  the price of both is three statements and one commit per batch.
- *Near copies* of long texts (`near`) are in Valkey. A MinHash is recall from the start, and its keys are many.

One advisory lock is held from the first statement to the commit: a cut-off copy and its whole have no key in common
that an index could make unique, so two workers must not decide at the same time. It costs little (4 round trips and
a commit for 500 texts), can't deadlock, and each statement after it sees all that was committed before. A client
that stalls inside is ended by `idle_in_transaction_session_timeout`.

This transaction commits before the step's own. A crash between them is a redo: the same record finds its own claim
and its own story and goes on. A story needs no position of its own: whoever got past the claim of a text id is the
record that made it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import redis
from psycopg2.errors import IdleInTransactionSessionTimeout
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from services.clean.fingerprint import Fingerprint
from services.clean.near import Near, Question
from services.stream.database import Connect, mapped, suppress_lost, transaction
from services.stream.errors import Transient
from services.stream.events import Origin

LOCK: Final = 0x636C61696D
"""Key of the advisory lock ('claim'); no other code locks this number."""

PRUNE_EVERY_S: Final = 60
PRUNE_ROWS: Final = 5_000
"""At most, so that pruning never holds the lock for long."""

MAX_BY_ANCHOR: Final = 5_000
"""Stories looked through for cut-off copies; someone who floods one beginning costs recall, not time."""


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


class _Story(NamedTuple):
    text_id: str
    event_time: int
    fingerprint: Fingerprint


class Duplicates:
    """The claims of all clean workers. Not thread-safe."""

    def __init__(self, connect: Connect, valkey: redis.Redis, copies_s: int) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self._near = Near(valkey, copies_s)
        self._copies_ms = copies_s * 1000
        self._pruned = 0.0

    def judge(self, candidates: Sequence[Candidate]) -> list[Copy | None]:
        """None for a text that is scored, in order. Asked again for the same records, the answers are the same.

        Raises:
            Transient: PostgreSQL or Valkey is away; what was claimed stays claimed by these records.
        """
        if not candidates:
            return []
        try:
            verdicts = self._durable(candidates)
        except Transient:
            self._drop()
            raise
        except IdleInTransactionSessionTimeout as error:
            self._drop()
            raise Transient("PostgreSQL ended the transaction: this process stalled inside it") from error
        long = [at for at, one in enumerate(candidates) if verdicts[at] is None and one.fingerprint.bands]
        questions = [Question(candidates[at].text_id, *candidates[at].fingerprint[-2:]) for at in long]
        for at, owner in zip(long, self._near.owners(questions), strict=True):
            if owner is not None:
                verdicts[at] = Copy("duplicate:near", owner)
        return verdicts

    def _drop(self) -> None:
        if self._connection is not None:
            with suppress_lost():
                self._connection.close()
        self._connection = None

    def _durable(self, candidates: Sequence[Candidate]) -> list[Copy | None]:
        if self._connection is None:
            self._connection = self._open()
        with transaction(self._connection) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
            verdicts = _identities(cursor, candidates)
            new = [at for at, verdict in enumerate(verdicts) if verdict is None]
            for at, copy in zip(new, self._stories(cursor, [candidates[at] for at in new]), strict=True):
                verdicts[at] = copy
            self._prune(cursor, max(one.received for one in candidates))
        return verdicts

    def _open(self) -> Connection:
        connection = self._connect()
        with mapped(), transaction(connection), connection.cursor() as cursor:
            cursor.execute("SET idle_in_transaction_session_timeout = '10s'; SET lock_timeout = '30s'")
        return connection

    def _stories(self, cursor: Cursor, candidates: Sequence[Candidate]) -> list[Copy | None]:
        known = _known(cursor, [one.fingerprint for one in candidates])
        added: dict[str, Candidate] = {}
        completed: dict[str, Fingerprint] = {}
        verdicts: list[Copy | None] = []
        for one in candidates:
            verdict, story = self._place(one, known[one.fingerprint.anchor])
            verdicts.append(verdict)
            if story is None:
                known[one.fingerprint.anchor].append(_Story(one.text_id, one.event_time, one.fingerprint))
                added[one.text_id] = one
            elif one.fingerprint.covers(story.fingerprint):
                # The whole takes the place of its cut-off copy: two stories that begin alike mustn't both be copies
                # of it.
                stories = known[one.fingerprint.anchor]
                stories[stories.index(story)] = story._replace(fingerprint=one.fingerprint)
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

    def _place(self, one: Candidate, stories: Iterable[_Story]) -> tuple[Copy | None, _Story | None]:
        """The story `one` belongs to, if there is one, and the verdict; its own story is no copy."""
        mine = one.fingerprint
        match: tuple[Copy, _Story] | None = None
        for story in stories:
            if story.text_id == one.text_id:
                return None, story
            if match is not None or abs(story.event_time - one.event_time) > self._copies_ms:
                continue
            if story.fingerprint.exact == mine.exact:
                match = Copy("duplicate:exact", story.text_id), story
            elif mine.covers(story.fingerprint) or story.fingerprint.covers(mine):
                match = Copy("duplicate:near", story.text_id), story
        return match or (None, None)

    def _prune(self, cursor: Cursor, now_ms: int) -> None:
        if time.monotonic() - self._pruned < PRUNE_EVERY_S:
            return
        cursor.execute(
            "DELETE FROM story WHERE text_id IN (SELECT text_id FROM story WHERE seen < %s LIMIT %s)",
            (now_ms - self._copies_ms, PRUNE_ROWS),
        )
        self._pruned = time.monotonic()


def _identities(cursor: Cursor, candidates: Sequence[Candidate]) -> list[Copy | None]:
    first: dict[str, Candidate] = {}
    for one in candidates:
        first.setdefault(one.text_id, one)
    columns = zip(
        *((text_id, one.content, *_position(one.origin), one.received) for text_id, one in first.items()), strict=True
    )
    cursor.execute(
        'INSERT INTO claim (text_id, content, topic, partition, "offset", claimed_at)'
        " SELECT * FROM unnest(%s::text[], %s::bytea[], %s::text[], %s::int[], %s::bigint[], %s::bigint[])"
        " ON CONFLICT DO NOTHING",
        [list(column) for column in columns],
    )
    cursor.execute(
        'SELECT text_id, content, topic, partition, "offset" FROM claim WHERE text_id = ANY(%s)', (list(first),)
    )
    holders = {text_id: (bytes(content), tuple(position)) for text_id, content, *position in cursor.fetchall()}
    return [_identity(one, *holders[one.text_id]) for one in candidates]


def _identity(one: Candidate, content: bytes, position: tuple[str, int, int]) -> Copy | None:
    if content != one.content:
        return Copy("id_reused", one.text_id)
    return None if position == _position(one.origin) else Copy("duplicate:id", one.text_id)


def _position(origin: Origin) -> tuple[str, int, int]:
    return origin.topic, origin.partition, origin.offset


def _known(cursor: Cursor, fingerprints: Sequence[Fingerprint]) -> defaultdict[int, list[_Story]]:
    """Stories these could be copies of, by anchor: the same whole, or one of the two is cut off."""
    cursor.execute(
        "SELECT text_id, event_time, exact, anchor, length, truncated, prefixes FROM story"
        " WHERE exact = ANY(%(exact)s::bytea[]) UNION SELECT * FROM ("
        "SELECT text_id, event_time, exact, anchor, length, truncated, prefixes FROM story"
        " WHERE anchor = ANY(%(cut)s::bigint[]) OR (truncated AND anchor = ANY(%(all)s::bigint[]))"
        " LIMIT %(limit)s) AS begun",
        {
            "exact": [one.exact for one in fingerprints],
            "cut": [one.anchor for one in fingerprints if one.truncated],
            "all": [one.anchor for one in fingerprints],
            "limit": MAX_BY_ANCHOR,
        },
    )
    known: defaultdict[int, list[_Story]] = defaultdict(list)
    for text_id, event_time, exact, anchor, length, truncated, prefixes in cursor.fetchall():
        print_ = Fingerprint(bytes(exact), anchor, length, truncated, bytes(prefixes))
        known[anchor].append(_Story(text_id, event_time, print_))
    return known


def _insert(cursor: Cursor, added: Iterable[Candidate]) -> None:
    rows = [(one.text_id, *one.fingerprint[:5], one.event_time, one.received) for one in added]
    if rows:
        cursor.execute(
            "INSERT INTO story (text_id, exact, anchor, length, truncated, prefixes, event_time, seen)"
            " SELECT * FROM unnest(%s::text[], %s::bytea[], %s::bigint[], %s::int[], %s::bool[], %s::bytea[],"
            " %s::bigint[], %s::bigint[])"
            # A text's story is there already when a redo meets rules that changed since.
            " ON CONFLICT DO NOTHING",
            [list(column) for column in zip(*rows, strict=True)],
        )
