"""POST /v1/texts: what is taken is durable, what isn't is named, and nothing a client sends is a 500."""

from __future__ import annotations

import json
import socket
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
from gateway_kit import Running, Start, problem

from services.gateway import intake
from services.gateway.acceptor import Acceptor
from services.gateway.problems import Problem
from services.runtime import Context
from services.settings import Settings
from services.stream import topics
from services.stream.database import migrate
from services.stream.events import RawText, decode, text_id
from services.stream.postgres import PostgresBus
from services.supervisor.servers import PostgresServer


def test_one_text_is_durable_under_its_derived_id(gateway: Running) -> None:
    answer = gateway.client.post("/v1/texts", json={"text": "Acme beats", "source": "news", "id": "7"})
    assert answer.status_code == 202
    expected = text_id(RawText(text="Acme beats", source="news", id="7"))
    assert answer.json() == {"accepted": [{"index": 0, "text_id": expected}], "refused": []}
    (record,) = gateway.records(topics.RAW)
    assert record.key == expected.encode()
    assert decode(RawText, record.value).text == "Acme beats"


ODD = {
    "emoji": {"text": "🚀🚀🚀"},
    "empty": {"text": ""},
    "future": {"text": "x", "published": "2999-01-01T00:00:00Z"},
    "ancient": {"text": "x", "published": "0001-01-01T00:00:00Z"},
    "negative time": {"text": "x", "published": -1e12},
    "NUL": {"text": "nul \0 inside"},
    "longest": {"text": "中" * 200_000},
    "unknown field": {"text": "x", "unknown_field": [1, {"deep": True}]},
}


def test_odd_texts_are_taken_and_left_to_cleaning(gateway: Running) -> None:
    for name, text in ODD.items():
        assert gateway.client.post("/v1/texts", json=text).status_code == 202, name
    assert len(gateway.records(topics.RAW)) == len(ODD)


BAD = [
    (b'{"text": "\xff\xfe"}', 400, "utf-8"),
    (b"not json", 400, "JSON"),
    (b'{"text": "a"', 400, "JSON"),
    (b'{"text": "\\ud800"}', 400, "JSON"),
    (b"", 400, "no text"),
    (b"   \n ", 400, "no text"),
    (b"[]", 400, "no text"),
    (b"null", 422, "object"),
    (b"7", 422, "object"),
    (b'"text"', 422, "object"),
    (b"{}", 422, "text"),
    (b'{"text": 7}', 422, "$.text"),
    (b'{"text": null}', 422, "$.text"),
    (b'{"text": "a", "source": ""}', 422, "$.source"),
    (b'{"text": "a", "source": "a\\u0000b"}', 422, "$.source"),
    (b'{"text": "a", "published": []}', 422, "$.published"),
    (b'{"text": "a", "published": 1e999}', 422, "$.published"),
    (b"[" * 10_000, 400, "recursion"),
    (b"[" * 10_000 + b"]" * 10_000, 400, "recursion"),
    (b'{"text": "a", "x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", 400, "recursion"),
    (b'{"a":' * 10_000, 400, ""),
    (json.dumps({"text": "x" * 1_000_000}).encode(), 422, "200000"),
    (json.dumps({"text": "\1" * 200_000}).encode(), 422, "1,000,000"),
    (b"[" + b",".join([b'{"text":"a"}'] * 10_001) + b"]", 413, "10,000"),
    (b"x" * 8_000_001, 413, "8,000,000"),
]
"""Body, status, and what the detail must hold."""


def test_bad_input_is_answered_with_its_reason(gateway: Running) -> None:
    for body, status, says in BAD:
        answer = gateway.client.post("/v1/texts", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == status, (body[:60], answer.text[:300])
        assert says in problem(answer, status)["detail"], body[:60]
    assert gateway.records(topics.RAW) == []


def test_of_a_batch_the_good_lines_are_taken_and_the_bad_ones_named(gateway: Running) -> None:
    lines = [b'{"text":"one"}', b"", b"{oops", b'{"text":2}', b'{"text":"\xff"}', b'{"text":"two"}']
    answer = gateway.client.post(
        "/v1/texts", content=b"\r\n".join(lines), headers={"Content-Type": "application/x-ndjson; charset=utf-8"}
    )
    assert answer.status_code == 202
    body = answer.json()
    assert [entry["index"] for entry in body["accepted"]] == [0, 4]
    assert [(entry["line"], entry["reason"]) for entry in body["refused"]] == [
        (3, "malformed"), (4, "invalid"), (5, "malformed"),
    ]  # fmt: skip
    assert "$.text" in body["refused"][1]["detail"]
    assert sorted(decode(RawText, r.value).text for r in gateway.records(topics.RAW)) == ["one", "two"]


def test_an_array_names_bad_items_by_index(gateway: Running) -> None:
    body = gateway.client.post("/v1/texts", json=[{"text": "one"}, {"txt": "two"}]).json()
    assert [entry["index"] for entry in body["refused"]] == [1]
    assert len(body["accepted"]) == 1


def test_a_batch_with_nothing_good_is_an_error_that_names_every_item(gateway: Running) -> None:
    body = problem(gateway.client.post("/v1/texts", json=[{"txt": 1}, {"text": 2}]), 422)
    assert [entry["index"] for entry in body["refused"]] == [0, 1]


def test_a_compressed_body_is_refused(gateway: Running) -> None:
    problem(gateway.client.post("/v1/texts", content=b"\x1f\x8b", headers={"Content-Encoding": "gzip"}), 415)


def test_a_client_that_hangs_up_early_breaks_nothing(gateway: Running) -> None:
    address = urlsplit(gateway.url)
    with socket.create_connection((address.hostname or "", address.port or 0)) as raw:
        raw.sendall(b"POST /v1/texts HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n{")
    assert gateway.client.post("/v1/texts", json={"text": "after"}).status_code == 202


def test_many_small_requests_share_transactions(gateway: Running) -> None:
    def send(number: int) -> int:
        return gateway.client.post("/v1/texts", json={"text": f"text {number}"}).status_code

    with ThreadPoolExecutor(32) as threads:
        assert set(threads.map(send, range(400))) == {202}
    ((chunks,),) = gateway.execute("SELECT count(*) FROM log.chunk WHERE topic = %s", topics.RAW)
    assert len(gateway.records(topics.RAW)) == 400
    assert chunks < 390


def test_a_full_queue_answers_429(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = start(queue_events=5)
    let_go = threading.Event()
    publish = PostgresBus.publish

    def slow(self: PostgresBus, events: list[object]) -> object:
        let_go.wait(20)
        return publish(self, events)  # type: ignore[arg-type]

    monkeypatch.setattr(PostgresBus, "publish", slow)
    with ThreadPoolExecutor(12) as threads:
        sent = [threads.submit(gateway.client.post, "/v1/texts", json={"text": str(n)}) for n in range(12)]
        deadline = time.monotonic() + 10
        while sum(future.done() for future in sent) < 7 and time.monotonic() < deadline:
            time.sleep(0.02)
        let_go.set()
    answers = [future.result() for future in sent]
    full = [answer for answer in answers if answer.status_code == 429]
    assert len(full) == 7
    assert problem(full[0], 429)["type"].endswith("queue-full")
    assert int(full[0].headers["retry-after"]) >= 1
    assert len(gateway.records(topics.RAW)) == 5


def test_the_rate_limit_counts_texts_and_says_when_to_come_back(start: Start) -> None:
    gateway = start(rate=10, burst=20)
    assert gateway.client.post("/v1/texts", json=[{"text": str(n)} for n in range(18)]).status_code == 202
    answer = gateway.client.post("/v1/texts", json=[{"text": str(n)} for n in range(18)])
    assert problem(answer, 429)["type"].endswith("rate-limited")
    assert 1 <= int(answer.headers["retry-after"]) <= 2
    assert len(gateway.records(topics.RAW)) == 18


def test_refused_texts_cost_as_much_as_taken_ones(start: Start) -> None:
    gateway = start(rate=1, burst=20)
    problem(gateway.client.post("/v1/texts", json=[{"txt": n} for n in range(18)]), 422)
    problem(gateway.client.post("/v1/texts", json=[{"txt": n} for n in range(18)]), 429)


@pytest.mark.parametrize(
    ("body", "media_type"),
    [(b"[" + b"0," * 3_999_000 + b"0]", "application/json"), (b"0\n" * 4_000_000, "application/x-ndjson")],
)
def test_a_body_of_a_million_items_is_not_taken_apart(body: bytes, media_type: str) -> None:
    tracemalloc.start()
    with pytest.raises(Problem) as refused:
        intake.read(body, media_type, 10_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused.value.body.status == 413
    assert peak < 20_000_000


def test_a_long_text_with_many_commas_is_no_crowd() -> None:
    prose = "Profit, as forecast, rose, " * 7_000
    body = msgspec.json.encode([{"text": prose}, *({"text": f"{n}", "id": f"{n}", "title": "x,y"} for n in range(100))])
    assert len(intake.read(body, "application/json", 101).accepted) == 101


def test_the_rate_limit_holds_without_valkey(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKERLOOP_GATEWAY_RATE", "1")
    monkeypatch.setenv("TICKERLOOP_GATEWAY_BURST", "3")
    gateway = Running(Settings(database=database, redis="redis://127.0.0.1:1/0", port=0))
    gateway.bus.create_topics()
    gateway.start()
    try:
        codes = [gateway.client.post("/v1/texts", json={"text": "x"}).status_code for _ in range(5)]
    finally:
        gateway.stop()
    assert codes[:3] == [202] * 3
    assert codes[4] == 429


def test_a_full_disk_is_a_503_and_keeps_nothing(gateway: Running) -> None:
    gateway.execute(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$"
    )
    gateway.execute("CREATE TRIGGER full_disk BEFORE INSERT ON log.chunk EXECUTE FUNCTION full_disk()")
    answer = gateway.client.post("/v1/texts", json=[{"text": "a"}, {"text": "b"}])
    gateway.execute("DROP TRIGGER full_disk ON log.chunk")
    assert problem(answer, 503)["type"].endswith("unavailable")
    assert answer.headers["retry-after"]
    assert gateway.records(topics.RAW) == []
    assert gateway.client.post("/v1/texts", json={"text": "a"}).status_code == 202


def test_a_lost_database_is_a_503_and_service_returns_with_it(folder: Path) -> None:
    server = PostgresServer(folder / "data", folder / "logs")
    server.start()
    migrate(server.url)
    gateway = Running(Settings(database=server.url, port=0))
    gateway.bus.create_topics()
    gateway.start()
    try:
        assert gateway.client.post("/v1/texts", json={"text": "before"}).status_code == 202
        server.stop()
        for _ in range(3):
            answer = gateway.client.post("/v1/texts", json=[{"text": "during 1"}, {"text": "during 2"}])
            problem(answer, 503)
            assert answer.headers["retry-after"]
        problem(gateway.client.get("/v1/predictions"), 503)
        problem(gateway.client.get("/readyz"), 503)
        assert gateway.client.get("/healthz").status_code == 200
        server.start()
        assert gateway.client.post("/v1/texts", json={"text": "after"}).status_code == 202
        gateway.bus.close()
        assert [decode(RawText, r.value).text for r in gateway.records(topics.RAW)].count("during 1") == 0
        assert len(gateway.records(topics.RAW)) == 2
        assert gateway.client.get("/v1/predictions").status_code == 200
    finally:
        gateway.stop()
        server.stop()


def test_a_log_that_hangs_is_a_503(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()
    publish = PostgresBus.publish
    monkeypatch.setattr(PostgresBus, "publish", lambda self, events: let_go.wait(20) and publish(self, events))
    monkeypatch.setattr("services.gateway.acceptor.PATIENCE_S", 0.3)
    answers = [gateway.client.post("/v1/texts", json={"text": "same"}) for _ in range(2)]
    let_go.set()
    assert all(problem(answer, 503)["detail"].startswith("the log does not answer") for answer in answers)
    assert answers[0].headers["retry-after"]
    assert gateway.client.post("/v1/texts", json={"text": "after"}).status_code == 202


def test_a_database_that_hangs_is_a_503(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()
    monkeypatch.setattr("services.gateway.queries.predictions", lambda *_: let_go.wait(20) and [])
    monkeypatch.setattr("services.gateway.pool.PATIENCE_S", 0.3)
    with ThreadPoolExecutor(8) as threads:  # more than the pool has: some wait in line
        answers = list(threads.map(lambda _: gateway.client.get("/v1/predictions"), range(8)))
    let_go.set()
    assert all(problem(answer, 503) for answer in answers)
    assert gateway.client.get("/v1/predictions").status_code == 200


def test_what_was_accepted_is_published_before_the_process_ends(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = start()
    waiting, let_go = threading.Semaphore(0), threading.Event()
    publish, submit = PostgresBus.publish, Acceptor.publish

    def held(self: PostgresBus, events: list[object]) -> object:
        let_go.wait(20)
        return publish(self, events)  # type: ignore[arg-type]

    async def counted(self: Acceptor, events: list[object]) -> None:
        waiting.release()
        await submit(self, events)  # type: ignore[arg-type]

    monkeypatch.setattr(PostgresBus, "publish", held)
    monkeypatch.setattr(Acceptor, "publish", counted)
    answers: list[httpx.Response] = []
    threads = [
        threading.Thread(target=lambda: answers.append(gateway.client.post("/v1/texts", json={"text": "last"})))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    assert all(waiting.acquire(timeout=10) for _ in threads)
    gateway.context.stop.set()
    time.sleep(0.3)
    assert answers == []
    let_go.set()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert all(answer.status_code == 202 for answer in answers)
    assert len(gateway.records(topics.RAW)) == 8


def test_a_taken_port_is_said_plainly(gateway: Running) -> None:
    from services.gateway.service import serve
    from services.stream.errors import Misconfigured

    port = urlsplit(gateway.url).port or 0
    second = Settings(database=gateway.settings.database, port=port)
    with pytest.raises(Misconfigured, match="--port"):
        serve(Context(second, "gateway", 1))
