"""The store: each event stored and counted once; a lost Valkey costs nothing; the latest is by event time."""

from __future__ import annotations

import json
import socket
import time
from contextlib import closing

import msgspec
import redis
from loop.conftest import Bench
from loop.makers import clean_text, prediction, published, rejected, shadow_of

from services import status, store
from services.clean import service as clean
from services.runtime import Context, now_ms
from services.settings import Settings
from services.stream import topics
from services.stream.bus import Outgoing, Record
from services.stream.loop import Hooks


def _stored(bench: Bench) -> bool:
    return bench.caught_up(store.GROUP, *store.TOPICS)


def test_account_adds_up_and_replay_changes_nothing(bench: Bench) -> None:
    bench.bus.publish([Outgoing(topics.RAW, b"k", b"{}") for _ in range(5)])
    bench.bus.publish([clean_text("a"), clean_text("b"), rejected("c", "language"), rejected("d", "duplicate:near")])
    bench.bus.publish([published(prediction("a")), published(prediction("b"))])
    dead = Outgoing(topics.dead(topics.RAW), b"k", b"{", (("reason", b"malformed"), ("group", b"clean")))
    bench.bus.publish([dead])
    bench.run(store.serve, lambda: _stored(bench))
    account = status.collect(bench.settings).account
    assert (account.taken, account.scored, account.rejected, account.duplicate, account.dead) == (5, 2, 1, 1, 1)
    assert account.waiting == 0
    assert account.reasons == {"language": 1, "duplicate:near": 1, "clean:malformed": 1}
    assert bench.rows("SELECT text_id FROM text ORDER BY 1") == [("a",), ("b",)]
    bench.bus.publish([published(prediction("a"))])
    bench.run(store.serve, lambda: _stored(bench))
    assert bench.rows("SELECT count(*) FROM prediction") == [(2,)]
    again = msgspec.structs.replace(prediction("b"), prediction_id="by-another-model", model="m2")
    bench.bus.publish([published(again), published(again)])
    bench.run(store.serve, lambda: _stored(bench))
    assert bench.rows("SELECT count(*) FROM prediction") == [(3,)]
    assert status.collect(bench.settings).account == account


def test_what_a_shadow_said_is_kept_apart_and_counts_for_nothing(bench: Bench) -> None:
    bench.bus.publish([published(prediction("a")), published(prediction("b"))])
    shadows = [shadow_of(prediction(text, "negative")) for text in ("a", "b", "c")]
    bench.bus.publish([*shadows, shadows[0], Outgoing(topics.SHADOW, b"x", b"nonsense")])
    bench.run(store.serve, lambda: _stored(bench))
    account = status.collect(bench.settings).account
    assert (account.scored, account.dead, account.waiting) == (2, 0, -2), "none of them was taken"
    assert bench.rows("SELECT count(*) FROM prediction WHERE model = 'm1'") == [(2,)]
    assert bench.rows("SELECT text_id, label, model, epoch FROM shadow_prediction ORDER BY 1") == [
        ("a", "negative", "m2", 2), ("b", "negative", "m2", 2), ("c", "negative", "m2", 2),
    ]  # fmt: skip
    assert sum(bench.bus.ends(topics.dead(topics.SHADOW)).values()) == 1


def test_latest_is_by_event_time_and_survives_a_lost_valkey(bench: Bench) -> None:
    now = now_ms()
    bench.bus.publish([published(prediction("new", "negative", at=now, tickers=("AAPL",)))])
    bench.run(store.serve, lambda: _stored(bench))
    bench.bus.publish([published(prediction("old", "positive", at=now - 6_000, tickers=("AAPL", "MSFT")))])
    bench.run(store.serve, lambda: _stored(bench))
    client = redis.Redis.from_url(bench.settings.redis)
    found = {t: json.loads(client.hget(f"latest:{t}", "json"))["label"] for t in ("AAPL", "MSFT")}  # type: ignore[arg-type]
    assert found == {"AAPL": "negative", "MSFT": "positive"}
    assert 0 < client.ttl("latest:AAPL") <= store.CACHED_S  # type: ignore[operator]
    bench.bus.publish([published(prediction("ancient", at=now - 2 * store.CACHED_S * 1000, tickers=("TSLA",)))])
    bench.run(store.serve, lambda: _stored(bench))
    assert not client.exists("latest:TSLA"), "the table may hold a newer one"

    dead = store.Latest(redis.Redis.from_url("redis://127.0.0.1:1/0"))
    bench.bus.publish([published(prediction("more", at=now, tickers=("AAPL",)))])
    context = bench.context("store")
    loop = context.loop(store.GROUP, *store.TOPICS, hooks=Hooks(after=dead))
    bench.run(lambda c: setattr(loop, "_stop", c.stop) or loop.sink(store.store), lambda: _stored(bench))
    assert bench.rows("SELECT count(*) FROM prediction") == [(4,)]


def test_a_valkey_that_hangs_holds_nobody_up() -> None:
    event = published(prediction("a", at=now_ms(), tickers=("AAPL",)))
    record = Record(event.topic, 0, 0, 0, event.key, event.value)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        context = Context(Settings(database="", redis=f"redis://127.0.0.1:{silent.getsockname()[1]}/0"), "store")
        latest = store.Latest(context.valkey(store.VALKEY_S, retries=0))
        began = time.monotonic()
        for _ in range(50):
            latest([record])
    assert time.monotonic() - began < 2


def test_nul_goes_through_cleaning_and_the_store_and_is_in_no_row(bench: Bench) -> None:
    names = {"source": "a\0b", "id": "x\0", "url": "http://\0x", "title": "Steel\0 outlook"}
    scored, copied = ({"text": "Steel\0 output rose in May"} | names | {"id": i} for i in ("x\0", "y\0"))
    refused = [{"text": "\0"} | names, {"text": "Der Gewinn ist nach der Warnung\0 gefallen"} | names | {"id": "z"}]
    texts = [json.dumps(text).encode() for text in (scored, copied, *refused)]
    bench.bus.publish([Outgoing(topics.RAW, b"k", value) for value in texts])
    bench.run(clean.serve, lambda: bench.caught_up(clean.GROUP, topics.RAW))
    bench.run(store.serve, lambda: _stored(bench))
    account = status.collect(bench.settings).account
    assert (account.taken, account.rejected, account.duplicate, account.dead) == (4, 2, 1, 0)
    assert bench.rows("SELECT body, source FROM text") == [("Steel outlook\nSteel output rose in May", "ab")]
    with closing(bench.bus.reader([topics.REJECTED])) as reader:
        events = [record.value for record in reader.poll(1.0)]
    assert len(events) == 3
    assert not any(b"\\u0000" in event for event in events)


def test_a_strangers_headers_are_not_the_accounts(bench: Bench) -> None:
    odd = (("reason", b"\xff\0"), ("group", b"\0"))
    bench.bus.publish([Outgoing(topics.RAW, b"k", b"{}", odd), Outgoing(topics.dead(topics.RAW), b"k", b"{", odd)])
    bench.run(store.serve, lambda: _stored(bench))
    account = status.collect(bench.settings).account
    assert (account.taken, account.dead, account.reasons) == (1, 0, {})
    assert ("texts.raw.dead", "\ufffd:\ufffd\ufffd", 1) in bench.rows("SELECT topic, reason, n FROM tally")


def letter(of: str, group: str) -> Outgoing:
    return Outgoing(topics.dead(of), b"k", b"{", (("reason", b"bad"), ("group", group.encode())))


def test_each_text_is_counted_once_whoever_gave_it_up(bench: Bench) -> None:
    """Of six texts one is scored, though the store refused its body; each of the others dies at another place."""
    bench.bus.publish([Outgoing(topics.RAW, b"k", b"{}") for _ in range(5)])
    bench.bus.publish([letter(topics.RAW, "ingest"), letter(topics.RAW, "clean"), letter(topics.CLEAN, "score")])
    bench.bus.publish([Outgoing(topics.CLEAN, b"k", b"no text"), published(prediction("a"))])
    bench.bus.publish([Outgoing(topics.PREDICTIONS, b"k", b"no prediction"), Outgoing(topics.REJECTED, b"k", b"none")])
    bench.run(store.serve, lambda: _stored(bench))
    bench.run(store.serve, lambda: _stored(bench))  # its own letters
    account = status.collect(bench.settings).account
    assert (account.taken, account.scored, account.dead, account.waiting) == (6, 1, 5, 0)
    assert account.reasons == {"ingest:bad": 1, "clean:bad": 1, "score:bad": 1, "store:malformed": 2}


def test_a_text_that_the_store_could_not_count_is_taken_all_the_same(bench: Bench) -> None:
    bench.bus.publish([letter(topics.RAW, "store"), published(prediction("a"))])
    bench.run(store.serve, lambda: _stored(bench))
    account = status.collect(bench.settings).account
    assert (account.taken, account.scored, account.dead, account.waiting) == (1, 1, 0, 0)


def test_what_the_model_abstained_from_is_stored_so(bench: Bench) -> None:
    unsure = msgspec.structs.replace(prediction("a"), abstained=True)
    bench.bus.publish([published(unsure), published(prediction("b"))])
    bench.run(store.serve, lambda: _stored(bench))
    assert bench.rows("SELECT text_id, label, abstained FROM prediction ORDER BY 1") == [
        ("a", "positive", True), ("b", "positive", False),
    ]  # fmt: skip


def test_a_malformed_prediction_is_a_dead_letter_and_the_rest_is_stored(bench: Bench) -> None:
    bench.bus.publish([published(prediction("a")), Outgoing(topics.PREDICTIONS, b"x", b"nonsense")])
    bench.run(store.serve, lambda: _stored(bench))
    assert bench.rows("SELECT text_id FROM prediction") == [("a",)]
    assert sum(bench.bus.ends(topics.dead(topics.PREDICTIONS)).values()) == 1
