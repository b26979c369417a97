"""Claims on real servers: of a cluster of copies exactly one is scored, whatever is killed, wiped or redone."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg2
import pytest
import redis

from services.clean import duplicates, near
from services.clean.pipeline import CleanSettings
from services.clean.worker import Clean
from services.stream.database import connector
from services.stream.errors import Transient

from .conftest import NOW, Fates, record
from .test_clean_fingerprint import LONG, STORY

CUT = "Halvorsen Marine (OSE: HVML) said freight revenue fell 14%, and it may lay…"
DAY = 24 * 3600 * 1000


def test_a_redo_gets_the_same_answers(step: Fates, new_step: Callable[[], Fates]) -> None:
    batch = [
        record(STORY, id="a"),
        record(STORY, id="b"),
        record(STORY, id="a"),
        record("Other content entirely", id="a"),
        record(LONG),
        record(LONG + " sources"),
        record(""),
        record("Der Gewinn ist nach der Warnung von gestern um die Hälfte gefallen"),
    ]
    expected = [
        "clean", "duplicate:exact", "duplicate:id", "id_reused", "clean", "duplicate:near", "empty", "language",
    ]  # fmt: skip
    assert step(*batch) == expected
    assert step(*batch) == expected
    assert new_step()(*batch) == expected
    assert [new_step()(one)[0] for one in reversed(batch)] == expected[::-1]


def test_malformed_records_are_dead_letters_and_claim_nothing(step: Fates) -> None:
    bad = record(STORY)._replace(value=b'{"text": 7}')
    assert step(bad, record(STORY)) == ["dead:invalid", "clean"]


def test_an_answer_too_large_to_publish_is_a_dead_letter(step: Fates) -> None:
    controls = "\x01" * 180_000  # six bytes each in JSON, none in the cleaned text
    assert step(record(STORY + controls), record(controls)) == ["clean", "dead:oversize"]
    assert step(record(STORY + controls)) == ["dead:oversize"]


def test_cut_off_copies_before_and_after_the_whole(step: Fates) -> None:
    assert step(record(CUT)) == ["clean"]
    assert step(record(STORY)) == ["duplicate:near"]
    assert step(record(CUT[:-5] + "…"), record(STORY)) == ["duplicate:near", "duplicate:exact"]
    # The whole has completed the story: another that begins alike is news.
    assert step(record(CUT[:-1] + " off all hands.")) == ["clean"]


def test_one_batch_holds_the_same_rules(step: Fates) -> None:
    assert step(record(CUT), record(STORY), record(CUT[:-1] + " off all hands."), record(CUT)) == [
        "clean", "duplicate:near", "clean", "duplicate:near",
    ]  # fmt: skip


def test_the_same_words_days_apart_are_news(step: Fates) -> None:
    headline = "Sensex ends 200 points higher"
    assert step(record(headline, id="mon", published=NOW - 4 * DAY), record(headline, id="fri", published=NOW)) == [
        "clean", "clean",
    ]  # fmt: skip
    assert step(record(headline, id="thu", published=NOW - DAY)) == ["duplicate:exact"]


def test_nearly_the_same_words_days_apart_are_news(step: Fates) -> None:
    edited = LONG + " sources"
    assert step(record(LONG, published=NOW - 4 * DAY), record(edited, published=NOW)) == ["clean", "clean"]
    assert step(record(edited + " said", published=NOW - DAY)) == ["duplicate:near"]


def test_old_stories_are_pruned_and_claims_are_not(step: Fates, new_step: Callable[[], Fates], database: str) -> None:
    assert step(record(STORY, id="a")) == ["clean"]
    assert new_step()(record("Something else happened to Denmoor", at=NOW + 4 * DAY)) == ["clean"]
    with closing(psycopg2.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT (SELECT count(*) FROM story), (SELECT count(*) FROM claim)")
        assert cursor.fetchone() == (1, 2)


def test_old_claims_are_forgotten_a_few_at_a_time(
    step: Fates, new_step: Callable[[], Fates], database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"Halvorsen Marine lost {n}00 containers in a storm" for n in range(5)]
    assert step(*(record(text, id=str(n)) for n, text in enumerate(texts))) == ["clean"] * 5
    monkeypatch.setattr(duplicates, "PRUNE_ROWS", 2)
    later = new_step()
    left = []
    with closing(psycopg2.connect(database)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        for n in range(4):
            assert later(record(f"Denmoor opens port number {n}", at=NOW + 31 * DAY)) == ["clean"]
            cursor.execute("SELECT count(*) FROM claim WHERE claimed_at = %s", (NOW,))
            left.append(cursor.fetchone())
    assert left == [(3,), (1,), (0,), (0,)]
    assert later(record(texts[0], id="0", at=NOW + 31 * DAY)) == ["clean"]


def test_a_claim_outlives_the_stories_of_its_text(database: str, valkey_url: str) -> None:
    def forgetful() -> Fates:
        settings = CleanSettings(claims_s=60)
        return Fates(Clean(connector(database, "clean"), redis.Redis.from_url(valkey_url), settings))

    assert forgetful()(record(STORY, id="a", published=NOW - 9 * DAY)) == ["clean"]
    assert forgetful()(record("Denmoor opens a port", at=NOW + 2 * DAY)) == ["clean"]
    assert forgetful()(record(STORY, id="a", at=NOW + 2 * DAY)) == ["duplicate:id"]
    assert forgetful()(record("Denmoor closes a port", at=NOW + 4 * DAY)) == ["clean"]
    assert forgetful()(record(STORY, id="a", at=NOW + 4 * DAY)) == ["clean"]


def test_a_record_from_the_future_forgets_nothing(step: Fates, new_step: Callable[[], Fates]) -> None:
    now = time.time_ns() // 1_000_000
    assert step(record(STORY, id="a", at=now)) == ["clean"]
    assert new_step()(record("Denmoor opens a port", at=now + 400 * DAY)) == ["clean"]
    assert step(record(STORY, id="a", at=now)) == ["duplicate:id"]


def test_pruning_is_an_index_scan(database: str) -> None:
    with closing(psycopg2.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute("SET enable_seqscan = off; EXPLAIN SELECT text_id FROM claim WHERE claimed_at < 1 LIMIT 5")
        assert "claim_claimed_at" in str(cursor.fetchall())


@pytest.mark.parametrize("wipe", [False, True])
def test_two_workers_never_score_two_copies(new_step: Callable[[], Fates], valkey_url: str, wipe: bool) -> None:
    rng = random.Random(5)
    forms: list[Callable[[str], str]] = [
        str, str.upper, "RT @x: {}".format, "BREAKING: {}".format, "{} https://x.example/1".format,
        "{} - Harrow Newswire".format, lambda text: " ".join(text.split()[:-2]) + "…",
    ]  # fmt: skip
    stories = [
        f"Company{n} said freight revenue fell {n}% in the third quarter after a strike in ports." for n in range(150)
    ]
    sent = [(n, rng.choice(forms)(story)) for n, story in enumerate(stories) for _ in range(6)]
    rng.shuffle(sent)
    fates: list[tuple[int, str]] = []
    client = redis.Redis.from_url(valkey_url)

    def worker(partition: int) -> None:
        mine = sent[partition::2]
        step = new_step()
        for start in range(0, len(mine), 20):
            part = mine[start : start + 20]
            batch = [
                record(text, id=f"{partition}.{start}.{i}", partition=partition, offset=start + i)
                for i, (_, text) in enumerate(part)
            ]
            first = step(*batch)
            if wipe:
                client.flushall()
            if rng.random() < 0.3:  # killed before its own commit
                step = new_step()
                assert step(*batch) == first
            fates.extend((n, fate) for (n, _), fate in zip(part, first, strict=True))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(worker, (0, 1)))
    scored = Counter(n for n, fate in fates if fate == "clean")
    assert scored == dict.fromkeys(range(150), 1)
    assert {fate for _, fate in fates} <= {"clean", "duplicate:exact", "duplicate:near"}


def test_a_wiped_valkey_forgets_only_near_copies(step: Fates, valkey_url: str) -> None:
    edited = LONG + " sources"
    assert step(record(LONG), record(STORY)) == ["clean", "clean"]
    redis.Redis.from_url(valkey_url).flushall()
    assert step(record(LONG), record(STORY), record(edited)) == ["duplicate:exact", "duplicate:exact", "clean"]


def test_near_keys_expire(step: Fates, valkey_url: str) -> None:
    step(record(LONG))
    client = redis.Redis.from_url(valkey_url)
    keys: Any = client.keys("*")
    assert keys
    assert all(0 < int(client.ttl(key)) <= 3 * 24 * 3600 for key in keys)


@pytest.mark.parametrize("error", [redis.ResponseError("MISCONF"), redis.BusyLoadingError()])
def test_a_valkey_that_refuses_is_transient(step: Fates, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refusing(*_: Any, **__: Any) -> None:
        raise error

    one = record(LONG)
    with monkeypatch.context() as patch:
        patch.setattr(redis.Redis, "execute_command", refusing)
        with pytest.raises(Transient):
            step(one)
    assert step(one) == ["clean"]


def test_a_letter_of_a_failed_step_is_no_duplicate_of_itself(step: Fates, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    held, cut = record(STORY, id="held"), record(CUT, id="cut")
    assert step(held) == ["clean"]
    with monkeypatch.context() as patch:
        patch.setattr(near.Near, "owners", broken)
        for _ in range(2):  # the second time as a redo, which finds its claim
            with pytest.raises(ZeroDivisionError):
                step(record(LONG, id="a", offset=8_000_001), cut)
    assert step(record(LONG, id="a"), record(CUT, id="cut"), record(STORY, id="held")) == [
        "clean", "duplicate:near", "duplicate:id",
    ]  # fmt: skip
    assert step(record(LONG, id="b")) == ["duplicate:exact"]


def test_lost_servers_are_transient_and_come_back(
    step: Fates, database: str, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = Fates(Clean(connector(database, "clean"), redis.Redis(port=1, socket_connect_timeout=1), CleanSettings()))
    with pytest.raises(Transient):
        nowhere(record(LONG, offset=7_000_001))
    assert step(record(LONG, offset=7_000_001)) == ["clean"]

    dead = Fates(
        Clean(connector("postgresql://u@127.0.0.1:1/x", "clean"), redis.Redis.from_url(valkey_url), CleanSettings())
    )
    with pytest.raises(Transient):
        dead(record(STORY))

    one = record(STORY)
    with closing(psycopg2.connect(database)) as other, other.cursor() as cursor:
        other.autocommit = True
        cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'clean'")
        with pytest.raises(Transient):
            step(one)
        assert step(one) == ["clean"]

    def stalled(cursor: Any, _: Any) -> None:
        cursor.execute("SET LOCAL idle_in_transaction_session_timeout = '100ms'")
        time.sleep(0.5)
        cursor.execute("SELECT 1")

    monkeypatch.setattr(duplicates, "claim", stalled)
    two = record("Denmoor Energy lowered its output guidance for the year")
    with pytest.raises(Transient):
        step(two)
    monkeypatch.undo()
    assert step(two) == ["clean"]
