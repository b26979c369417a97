"""Leases: who is asked about which text until when, so that two people don't do the same work.

A text has a place for its first reader and two for other opinions. The table's key lets each place be held once; one
that ran out is taken over in the statement that would have inserted it. So two gateways can't give one place to two
people, and what a killed one had given away is in the table or was never given.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from psycopg2.extensions import cursor as Cursor

from services.review.candidates import Wanted
from services.review.ranking import OPINIONS, Why
from services.stream.events import derived_id
from services.stream.membership import lock_key

LEASE_MS: Final = 10 * 60_000
"""How long a text is kept for whoever has it; asking for more renews what one has."""

LATELY: Final = 100
"""Texts that the next ones should not resemble."""

LOCK: Final = lock_key("lease")


class Lease(NamedTuple):
    """A text that somebody is asked about until `expires`. `shown` is what was made up around a gold question."""

    lease_id: str
    prediction_id: str
    text_id: str
    expires: int
    shown: dict[str, Any] | None = None


class Offer(NamedTuple):
    """A text to ask somebody about."""

    why: Why
    prediction_id: str
    text_id: str
    sampled: bool = False
    first: bool = True
    """For its first reader; otherwise for another opinion."""
    shown: dict[str, Any] | None = None


_LEASE: Final = "lease_id, prediction_id, text_id, expires, shown"
_HELD: Final = "annotator = %(annotator)s AND answered IS NULL AND expires > %(now)s"


def renewed(cursor: Cursor, annotator: str, wanted: Wanted, now: int) -> list[Lease]:
    """What `annotator` holds, for a whole time again; what isn't `wanted` any more, or was erased, is let go. Gold
    questions are kept where they would be given, see `Wanted.gold`."""
    _in_turn(cursor)
    given = {"annotator": annotator, "now": now, "expires": now + LEASE_MS, "gold": wanted.gold, **wanted._asdict()}
    cursor.execute(
        f"UPDATE lease l SET expires = %(now)s WHERE {_HELD}"  # noqa: S608 (constants)
        " AND NOT (%(gold)s AND shown IS NOT NULL) AND NOT EXISTS"
        " (SELECT FROM prediction p JOIN text USING (text_id) WHERE p.prediction_id = l.prediction_id"
        " AND (%(ticker)s::text IS NULL OR p.tickers && ARRAY[%(ticker)s, upper(%(ticker)s)])"
        " AND (%(language)s::text IS NULL OR p.language = %(language)s))",
        given,
    )
    cursor.execute(f"UPDATE lease SET expires = %(expires)s WHERE {_HELD}", given)  # noqa: S608
    return held(cursor, annotator, now)


def held(cursor: Cursor, annotator: str, now: int) -> list[Lease]:
    """What `annotator` is asked about now, in the order in which it was given."""
    cursor.execute(
        f"SELECT {_LEASE} FROM lease WHERE {_HELD} ORDER BY given, lease_id",  # noqa: S608
        {"annotator": annotator, "now": now},
    )
    return [Lease(*row) for row in cursor.fetchall()]


def grant(cursor: Cursor, annotator: str, offers: Sequence[Offer], most: int, now: int) -> None:
    """Give `annotator` of `offers`, in their order, what nobody else was given meanwhile, until they hold `most`."""
    _in_turn(cursor)
    missing = most - len(held(cursor, annotator, now))
    for offer in offers:
        if missing <= 0:
            return
        missing -= any(_granted(cursor, annotator, offer, place, now) for place in _places(annotator, offer))


def _in_turn(cursor: Cursor) -> None:
    """Who touches several leases is alone in that until the transaction's end: two that lock the same rows in another
    order would wait for each other, and whoever wants a place locks its row to see that it isn't free."""
    cursor.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))


def _places(annotator: str, offer: Offer) -> Sequence[str]:
    if offer.why == "gold":
        return [annotator]
    return ["1"] if offer.first else [str(number) for number in range(2, OPINIONS + 1)]


def _granted(cursor: Cursor, annotator: str, offer: Offer, place: str, now: int) -> bool:
    cursor.execute(
        "INSERT INTO lease AS l"
        " (prediction_id, place, lease_id, text_id, annotator, why, sampled, given, expires, shown)"
        " SELECT %(prediction_id)s, %(place)s, %(lease_id)s, %(text_id)s, %(annotator)s, %(why)s, %(sampled)s, %(now)s,"
        " %(expires)s, %(shown)s WHERE NOT EXISTS (SELECT FROM lease WHERE prediction_id = %(prediction_id)s"
        " AND annotator = %(annotator)s AND (answered IS NOT NULL OR passed OR expires > %(now)s))"
        " ON CONFLICT (prediction_id, place) DO UPDATE"
        " SET lease_id = excluded.lease_id, annotator = excluded.annotator, why = excluded.why,"
        " sampled = excluded.sampled, given = excluded.given, expires = excluded.expires,"
        " passed = false, shown = excluded.shown WHERE l.answered IS NULL AND l.expires <= %(now)s",
        {
            "prediction_id": offer.prediction_id,
            "place": place,
            "lease_id": derived_id("lease", offer.prediction_id, place, annotator, str(now)),
            "text_id": offer.text_id,
            "annotator": annotator,
            "why": offer.why,
            "sampled": offer.sampled,
            "now": now,
            "expires": now + LEASE_MS,
            "shown": None if offer.shown is None else json.dumps(offer.shown),
        },
    )
    return bool(cursor.rowcount)


def release(cursor: Cursor, lease_id: str, annotator: str | None, now: int) -> None:
    """Let a text go, for somebody else; its holder isn't asked about it again. Nothing where the lease has ended, or is
    not `annotator`'s (None: whoever's it is)."""
    cursor.execute(
        "UPDATE lease SET expires = %(now)s, passed = true WHERE lease_id = %(lease_id)s AND answered IS NULL"
        " AND (%(annotator)s::text IS NULL OR annotator = %(annotator)s)",
        {"lease_id": lease_id, "annotator": annotator, "now": now},
    )


def lately(cursor: Cursor) -> list[str]:
    """Text ids of what was given to anybody last."""
    cursor.execute("SELECT text_id FROM lease WHERE why <> 'gold' ORDER BY given DESC LIMIT %s", (LATELY,))
    return [text for (text,) in cursor.fetchall()]


def sampled(cursor: Cursor, annotator: str, prediction_id: str) -> bool:
    """Whether `annotator` was asked about it by a random draw."""
    cursor.execute(
        "SELECT FROM lease WHERE prediction_id = %s AND annotator = %s AND sampled", (prediction_id, annotator)
    )
    return cursor.fetchone() is not None


def answer(cursor: Cursor, annotator: str, prediction_id: str, now: int) -> None:
    """`annotator` has said something of it, asked or not."""
    cursor.execute(
        "UPDATE lease SET answered = %s WHERE prediction_id = %s AND annotator = %s AND answered IS NULL",
        (now, prediction_id, annotator),
    )
