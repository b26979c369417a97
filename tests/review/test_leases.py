"""Leases in a real PostgreSQL: one place, one person, whoever asks at once and whatever is killed."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from random import Random

import psycopg2
import pytest
from psycopg2.extensions import cursor as Cursor

from services.review import leases
from services.review.candidates import Wanted
from services.review.leases import LEASE_MS, Offer

NOW = 1_700_000_000_000


@pytest.fixture
def database_cursor(database: str) -> Iterator[Cursor]:
    with closing(psycopg2.connect(database)) as connection, connection, connection.cursor() as cursor:
        yield cursor


def offers(n: int, first: bool = True) -> list[Offer]:
    return [Offer("uncertain" if first else "again", f"p{i:03}", f"t{i:03}", first=first) for i in range(n)]


def ids(cursor: Cursor, annotator: str, now: int = NOW) -> set[str]:
    return {lease.prediction_id for lease in leases.held(cursor, annotator, now)}


def test_a_place_is_one_persons_until_it_runs_out(database_cursor: Cursor) -> None:
    leases.grant(database_cursor, "ana", offers(3), 2, NOW)
    assert ids(database_cursor, "ana") == {"p000", "p001"}
    leases.grant(database_cursor, "bo", offers(3), 3, NOW + 1)
    assert ids(database_cursor, "bo") == {"p002"}
    late = NOW + LEASE_MS
    leases.grant(database_cursor, "bo", offers(3), 3, late)
    assert ids(database_cursor, "ana", late) == set()
    assert ids(database_cursor, "bo", late) == {"p000", "p001", "p002"}


def test_what_was_answered_is_never_given_again(database_cursor: Cursor) -> None:
    leases.grant(database_cursor, "ana", offers(1), 1, NOW)
    leases.answer(database_cursor, "ana", "p000", NOW + 1)
    assert ids(database_cursor, "ana", NOW + 2) == set()
    for annotator in ("ana", "bo"):
        leases.grant(database_cursor, annotator, offers(1), 1, NOW + 2 * LEASE_MS)
        assert ids(database_cursor, annotator, NOW + 2 * LEASE_MS) == set()


def test_three_people_at_most_are_asked_about_one_text(database_cursor: Cursor) -> None:
    leases.grant(database_cursor, "ana", offers(1), 1, NOW)
    leases.answer(database_cursor, "ana", "p000", NOW)
    for annotator in ("ana", "bo", "chen", "dee"):
        leases.grant(database_cursor, annotator, offers(1, first=False), 1, NOW)
    asked = {name for name in ("ana", "bo", "chen", "dee") if ids(database_cursor, name)}
    assert asked == {"bo", "chen"}


def test_what_was_let_go_is_for_others(database_cursor: Cursor) -> None:
    leases.grant(database_cursor, "ana", offers(1), 1, NOW)
    (lease,) = leases.held(database_cursor, "ana", NOW)
    leases.release(database_cursor, lease.lease_id, "mallory", NOW)
    assert ids(database_cursor, "ana") == {"p000"}, "it is not mallory's"
    for _ in range(2):
        leases.release(database_cursor, lease.lease_id, "ana", NOW)
        leases.grant(database_cursor, "ana", offers(1), 1, NOW + 1)
        assert ids(database_cursor, "ana", NOW + 1) == set(), "who passed isn't asked again"
    leases.grant(database_cursor, "bo", offers(1), 1, NOW + 1)
    assert ids(database_cursor, "bo", NOW + 1) == {"p000"}
    leases.release(database_cursor, lease.lease_id, None, NOW + 1)
    assert ids(database_cursor, "bo", NOW + 1) == {"p000"}, "the old lease has ended, bo's is another"


def test_a_gold_question_is_for_everyone_once(database_cursor: Cursor) -> None:
    gold = [Offer("gold", "g1", "gt1", shown={"text_id": "gt1"})]
    for annotator in ("ana", "bo"):
        leases.grant(database_cursor, annotator, gold, 1, NOW)
        assert ids(database_cursor, annotator) == {"g1"}
    leases.answer(database_cursor, "ana", "g1", NOW)
    later = NOW + 2 * LEASE_MS
    for annotator in ("ana", "bo"):
        leases.grant(database_cursor, annotator, gold, 1, later)
    assert ids(database_cursor, "ana", later) == set() and ids(database_cursor, "bo", later) == {"g1"}


def test_renewing_keeps_what_is_wanted_and_lets_the_rest_go(database_cursor: Cursor) -> None:
    for number, (ticker, language) in enumerate((("ACME", "en"), ("XYZ", "en"), ("ACME", "zh"))):
        database_cursor.execute(
            "INSERT INTO prediction (prediction_id, text_id, cluster, label, negative, neutral, positive, model, epoch,"
            " tickers, source, language, event_time, scored, truncated, origin_partition, origin_offset)"
            " VALUES (%s, %s, 'c', 'neutral', 0, 1, 0, 'm', 1, %s, 's', %s, 0, 0, false, 0, 0)",
            (f"p{number:03}", f"t{number:03}", [ticker], language),
        )
        if number < 3:
            database_cursor.execute(
                "INSERT INTO text (text_id, cluster, body, source, language, marks, event_time, received)"
                " VALUES (%s, 'c', 'x', 's', %s, '{}', 0, 0)",
                (f"t{number:03}", language),
            )
    mixed = [*offers(3), Offer("gold", "g1", "gt1", shown={"text_id": "gt1"})]
    leases.grant(database_cursor, "ana", mixed, 9, NOW)
    renewed = leases.renewed(database_cursor, "ana", Wanted(), NOW + 1)
    assert {lease.prediction_id for lease in renewed} == {"p000", "p001", "p002", "g1"}
    assert {lease.expires for lease in renewed} == {NOW + 1 + LEASE_MS}
    kept = leases.renewed(database_cursor, "ana", Wanted(language="en"), NOW + 2)
    assert {lease.prediction_id for lease in kept} == {"p000", "p001", "g1"}
    kept = leases.renewed(database_cursor, "ana", Wanted(ticker="acme"), NOW + 3)
    assert {lease.prediction_id for lease in kept} == {"p000"}
    database_cursor.execute("DELETE FROM text WHERE text_id = 't000'")
    assert leases.renewed(database_cursor, "ana", Wanted(), NOW + 4) == [], "what was erased is let go"
    leases.grant(database_cursor, "ana", mixed[1:2], 1, NOW + 5)
    assert ids(database_cursor, "ana", NOW + 5) == {"p001"}, "which isn't passing: it may come again"


def together(n: int, work: Callable[[int], None]) -> None:
    """`work` in `n` threads that start at once."""
    barrier = threading.Barrier(n)

    def one(number: int) -> None:
        barrier.wait()
        work(number)

    with ThreadPoolExecutor(n) as threads:
        list(threads.map(one, range(n)))


def test_many_who_ask_at_once_never_get_the_same_place(database: str) -> None:
    """Eight people, each over its own connection, ask for more and more of the same sixty texts, in any order."""
    told: dict[int, set[str]] = {}

    def ask(number: int) -> None:
        wanted = offers(60)
        with closing(psycopg2.connect(database)) as connection:
            for turn in range(5):
                Random(8 * turn + number).shuffle(wanted)
                with connection, connection.cursor() as cursor:
                    leases.grant(cursor, f"a{number}", wanted, 2 * (turn + 1), NOW)
                    before, told[number] = told.get(number, set()), ids(cursor, f"a{number}")
                assert before <= told[number], "nobody took it away"

    together(8, ask)
    given = Counter(name for names in told.values() for name in names)
    assert len(given) == given.total() == 60
    assert all(len(names) <= 10 for names in told.values())


def test_two_tabs_of_one_person_get_no_more_than_one(database: str) -> None:
    def ask(_: int) -> None:
        with closing(psycopg2.connect(database)) as connection, connection, connection.cursor() as cursor:
            leases.grant(cursor, "ana", offers(60), 10, NOW)

    together(4, ask)
    with closing(psycopg2.connect(database)) as connection, connection.cursor() as cursor:
        assert len(leases.held(cursor, "ana", NOW)) == 10


def test_expired_work_that_many_want_goes_to_one(database: str) -> None:
    with closing(psycopg2.connect(database)) as connection, connection, connection.cursor() as cursor:
        leases.grant(cursor, "gone", offers(20), 20, NOW)

    def ask(number: int) -> None:
        with closing(psycopg2.connect(database)) as connection, connection, connection.cursor() as cursor:
            leases.grant(cursor, f"a{number}", offers(20), 20, NOW + LEASE_MS)

    together(6, ask)
    with closing(psycopg2.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*), count(DISTINCT prediction_id) FROM lease WHERE annotator LIKE 'a%'")
        assert cursor.fetchone() == (20, 20)


def test_a_connection_that_dies_in_the_middle_has_given_nothing(database: str) -> None:
    dying = psycopg2.connect(database)
    with dying.cursor() as cursor:
        leases.grant(cursor, "ana", offers(5), 5, NOW)
    dying.close()  # without a commit
    with closing(psycopg2.connect(database)) as connection, connection, connection.cursor() as cursor:
        leases.grant(cursor, "bo", offers(5), 5, NOW)
        assert len(leases.held(cursor, "bo", NOW)) == 5
