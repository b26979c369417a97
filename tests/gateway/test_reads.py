"""What is stored, page by page; tickers, windows."""

from __future__ import annotations

import json
import random
import threading
from contextlib import closing
from typing import Any

import redis
from gateway_kit import Running, body_of, made, problem

from services.stream.errors import Transient


def walk(gateway: Running, **query: Any) -> list[str]:
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = gateway.client.get("/v1/predictions", params={**query, **({"cursor": cursor} if cursor else {})}).json()
        found += [item["prediction_id"] for item in page["items"]]
        cursor = page["next"]
        if cursor is None:
            return found


def test_one_prediction_with_and_without_its_text(gateway: Running) -> None:
    gateway.store(made(1))
    gateway.store(made(2), texts=False)
    found = gateway.client.get(f"/v1/predictions/{made(1).prediction_id}").json()
    assert found["text"] == body_of(made(1))
    assert found["sentiment"] == 0.75
    assert gateway.client.get(f"/v1/predictions/{made(2).prediction_id}").json()["text"] is None
    problem(gateway.client.get("/v1/predictions/nope"), 404)


def test_filters(gateway: Running) -> None:
    gateway.store(made(1), made(2, label="negative", tickers=("XYZ", "ACME")), made(3, source="wire", tickers=()))
    one, two, three = (made(n).prediction_id for n in (1, 2, 3))
    assert walk(gateway) == [three, two, one]
    assert walk(gateway, ticker="xyz") == [two]
    assert walk(gateway, ticker="ACME") == [two, one]
    assert walk(gateway, label="negative") == [two]
    assert walk(gateway, source="wire") == [three]
    assert walk(gateway, text_id="text000001") == [one]
    assert walk(gateway, **{"from": 1_700_000_000_002}) == [three, two]
    assert walk(gateway, to="2023-11-14T22:13:20.002Z") == [one]


def test_paging_is_complete_while_rows_arrive(gateway: Running) -> None:
    """Many rows share an event time, and late rows land anywhere in the order."""
    rng = random.Random(7)
    before = [made(n, event_time=1_700_000_000_000 + rng.randrange(40)) for n in range(200)]
    gateway.store(*before, texts=False)
    stop = threading.Event()

    def insert() -> None:
        for number in range(1_000, 2_000):
            if stop.is_set():
                return
            gateway.store(made(number, event_time=1_700_000_000_000 + rng.randrange(60)), texts=False)

    writer = threading.Thread(target=insert)
    writer.start()
    try:
        found = walk(gateway, limit=7)
    finally:
        stop.set()
        writer.join()
    assert len(found) == len(set(found))
    assert {p.prediction_id for p in before} <= set(found)


def test_queries_that_make_no_sense_are_400(gateway: Running) -> None:
    for query in (
        "limit=0", "limit=1001", "limit=x", "limit=99999999999999999999", "label=good", "cursor=zzz",
        "cursor=" + "A" * 501,
        "cursor=WzEsMl0", "from=yesterday", "from=-1", "to=99999999999999999999",
        "from=9999999999999999", "ticker=" + "x" * 201,
    ):  # fmt: skip
        answer = gateway.client.get(f"/v1/predictions?{query}")
        assert answer.status_code == 400, query
        problem(answer, 400)
    for path in ("/v1/predictions/%00", "/v1/predictions?ticker=%00", "/v1/tickers/%00", "/v1/tickers/a%00/windows"):
        answer = gateway.client.get(path)
        assert answer.status_code in (400, 404, 422), path
    assert gateway.client.get("/v1/predictions?ticker=%ff%fe'%22--").status_code == 200


def test_the_latest_of_a_ticker_from_the_cache_and_without_it(gateway: Running, valkey_url: str) -> None:
    problem(gateway.client.get("/v1/tickers/ACME"), 404)
    gateway.store(made(1), made(2, label="negative"))
    from_table = gateway.client.get("/v1/tickers/acme").json()
    assert (from_table["label"], from_table["event_time"]) == ("negative", 1_700_000_000_002)
    cached = {
        "prediction_id": "p", "label": "neutral", "sentiment": 0.1, "event_time": 5, "model": "m", "epoch": 2
    }  # fmt: skip
    with closing(redis.Redis.from_url(valkey_url)) as client:
        client.hset("latest:ACME", mapping={"at": 5, "json": json.dumps(cached)})
        assert gateway.client.get("/v1/tickers/ACME").json() == {"ticker": "ACME", **cached}
        client.hset("latest:ACME", "json", "{broken")
        assert gateway.client.get("/v1/tickers/ACME").json()["label"] == "negative"


def test_windows(gateway: Running) -> None:
    for minute in range(3):
        gateway.execute(
            "INSERT INTO window_minute VALUES ('ACME', %s, 4, 1, 1, 2, 0.25, %s, 1)",
            1_700_000_040_000 + minute * 60_000, minute < 2,
        )  # fmt: skip
    url = "/v1/tickers/acme/windows?from=1700000040000&to=1700000160000"
    found = gateway.client.get(url).json()["windows"]
    assert [window["start"] for window in found] == [1_700_000_040_000, 1_700_000_100_000]
    assert found[0] == {
        "start": 1_700_000_040_000, "n": 4, "negative": 1, "neutral": 1, "positive": 2, "sentiment": 0.25,
        "closed": True, "revision": 1,
    }  # fmt: skip
    assert gateway.client.get("/v1/tickers/ACME/windows").json()["windows"] == []


def test_a_query_that_takes_too_long_is_503(gateway: Running, monkeypatch: Any) -> None:
    def slow(*_: object) -> None:
        raise Transient("canceling statement due to statement timeout")

    monkeypatch.setattr("services.gateway.queries.predictions", slow)
    problem(gateway.client.get("/v1/predictions"), 503)


def test_a_text_in_a_language_that_its_model_is_not_meant_for_is_marked(gateway: Running) -> None:
    gateway.execute(
        "INSERT INTO model_version (version, card, files, created)"
        """ VALUES ('english', '{"languages": ["en"]}', '{}', 1), ('any', '{"languages": []}', '{}', 1)"""
    )
    stored = (
        made(1, model="english"),
        made(2, language="zh", model="english"),
        made(3, language="zh", model="any"),
        made(4, language="zh", model="unknown"),
    )
    gateway.store(*stored)
    items = gateway.client.get("/v1/predictions").json()["items"]
    assert {item["text_id"][-1]: item["foreign"] for item in items} == {"1": False, "2": True, "3": False, "4": False}


def test_what_the_model_abstained_from_is_marked(gateway: Running) -> None:
    gateway.store(made(1), made(2, abstained=True))
    items = gateway.client.get("/v1/predictions").json()["items"]
    assert {item["text_id"][-1]: (item["label"], item["abstained"]) for item in items} == {
        "1": ("positive", False), "2": ("positive", True),
    }  # fmt: skip
