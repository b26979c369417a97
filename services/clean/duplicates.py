"""What was seen before: identity and copies, claimed durably, so that of a cluster of copies exactly one is scored.

Where each claim lies, and why:
- *Identity* (table `claim`) and *whole or cut-off copies* (table `story`) are in PostgreSQL. A copy scored twice is
  counted twice in every aggregate, so a wiped cache must not bring it about; and the claims share a transaction, so
  the price of
  both is a few statements and one commit per batch.
- An id is forgotten after `claims_s`, which outlasts its record in `texts.raw`, so that a redo still finds its claim.
  Sent again later, the text is scored again, under the prediction id that it had.
- *Near copies* of long texts (`near`) are in Valkey. A MinHash is recall from the start, and its keys are many.

One advisory lock is held from the first statement to the commit: a cut-off copy and its whole have no key in common
that an index could make unique, so two workers must not decide at the same time. It costs little (a few round trips
and a commit for 500 texts), can't deadlock, and each statement after it sees all that was committed before. A client
that stalls inside is ended by `idle_in_transaction_session_timeout`.

This transaction commits before the step's own. A crash between them is a redo: the same record finds its own claim and
in it the verdict it got, so that stories told since can't change it. A defect between them ends in dead letters; these
records free their claims, so that a letter that is replayed is a new text and no duplicate of itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Final, TypeVar

import redis
from psycopg2.errors import IdleInTransactionSessionTimeout
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from services.clean import claims, stories
from services.clean.claims import Candidate, Copy, claim, settle
from services.clean.near import Near, Question
from services.erasure.refusal import Mark, refused
from services.stream.database import Connect, suppress_lost, transaction
from services.stream.errors import Transient

T = TypeVar("T")

LOCK: Final = 0x636C61696D
"""Key of the advisory lock ('claim'); no other code locks this number."""

PRUNE_EVERY_S: Final = 60
PRUNE_ROWS: Final = 5_000
"""At most of each table, so that pruning never holds the lock for long; while there is more, each batch goes on."""


class Duplicates:
    """The claims of all clean workers. Not thread-safe."""

    def __init__(self, connect: Connect, valkey: redis.Redis, copies_s: int, claims_s: int) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self._near = Near(valkey, copies_s)
        # A claim outlives its text's story: sent again, the text would be a copy of itself.
        self._copies_ms, self._claims_ms = copies_s * 1000, max(copies_s, claims_s) * 1000
        self._prune_at = 0.0

    def judge(self, candidates: Sequence[Candidate]) -> list[Copy | None]:
        """None for a text that is scored, in order. Asked again for the same records, the answers are the same.

        Raises:
            Transient: PostgreSQL or Valkey is away; what was claimed stays claimed by these records.
        """
        if not candidates:
            return []
        verdicts = self._in_transaction(lambda cursor: self._durable(cursor, candidates))
        try:
            self._judge_nearness(candidates, verdicts)
        except Transient:
            raise
        except Exception:
            self._in_transaction(lambda cursor: stories.withdraw(cursor, claims.release(cursor, candidates)))
            raise
        return verdicts

    def erased(self, marks: Collection[Mark]) -> set[Mark]:
        """Those of `marks` that a text was erased by.

        Raises:
            Transient: PostgreSQL is away.
        """
        return self._in_transaction(lambda cursor: refused(cursor, marks)) if marks else set()

    def _judge_nearness(self, candidates: Sequence[Candidate], verdicts: list[Copy | None]) -> None:
        long = [at for at, one in enumerate(candidates) if verdicts[at] is None and one.fingerprint.bands]
        for at, owner in zip(long, self._near.owners([_question(candidates[at]) for at in long]), strict=True):
            if owner is not None:
                verdicts[at] = Copy("duplicate:near", owner)

    def _in_transaction(self, work: Callable[[Cursor], T]) -> T:
        """Do `work` under the lock and commit."""
        try:
            if self._connection is None:
                self._connection = self._open()
            with transaction(self._connection) as connection, connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
                return work(cursor)
        except Transient:
            self._drop()
            raise
        except IdleInTransactionSessionTimeout as error:
            self._drop()
            raise Transient("PostgreSQL ended the transaction: this process stalled inside it") from error

    def _durable(self, cursor: Cursor, candidates: Sequence[Candidate]) -> list[Copy | None]:
        verdicts, new = claim(cursor, candidates)
        copies: dict[str, Copy] = {}
        placed = stories.place(cursor, [candidates[at] for at in new], self._copies_ms) if new else []
        for at, copy in zip(new, placed, strict=True):
            verdicts[at] = copy
            if copy is not None:
                copies[candidates[at].text_id] = copy
        settle(cursor, copies)
        if time.monotonic() >= self._prune_at:
            self._prune(cursor, max(one.received for one in candidates))
        return verdicts

    def _prune(self, cursor: Cursor, newest_ms: int) -> None:
        # By arrival, so that a replay finds what the first run found; no later than now, whatever a log's clock says.
        newest_ms = min(newest_ms, time.time_ns() // 1_000_000)
        dropped = stories.prune(cursor, newest_ms - self._copies_ms, PRUNE_ROWS)
        forgotten = claims.prune(cursor, newest_ms - self._claims_ms, PRUNE_ROWS)
        if max(dropped, forgotten) < PRUNE_ROWS:
            self._prune_at = time.monotonic() + PRUNE_EVERY_S

    def _open(self) -> Connection:
        connection = self._connect()
        with transaction(connection), connection.cursor() as cursor:
            cursor.execute("SET idle_in_transaction_session_timeout = '10s'; SET lock_timeout = '30s'")
        return connection

    def _drop(self) -> None:
        if self._connection is not None:
            with suppress_lost():
                self._connection.close()
        self._connection = None


def _question(one: Candidate) -> Question:
    return Question(one.text_id, one.fingerprint.bands, one.fingerprint.signature, one.event_time)
