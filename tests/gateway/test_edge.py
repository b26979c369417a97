"""Scoring now, health, and what stands around every answer."""

from __future__ import annotations

import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import ThreadingHTTPServer
from typing import Any

import httpx
import msgspec
import pytest
from gateway_kit import Running, Start, announce, bearer, new_key, problem
from prometheus_client import REGISTRY

from services import status
from services.gateway.limits import limits_from
from services.gateway.names import LOOPBACK, answered
from services.gateway.problems import FieldError, Problem
from services.settings import Settings
from services.stream.errors import Misconfigured


def score(gateway: Running, *texts: object) -> httpx.Response:
    return gateway.client.post("/v1/score", json={"texts": texts})


def test_scoring_now_is_forwarded_to_a_live_worker(gateway: Running, scorer: ThreadingHTTPServer) -> None:
    announce(gateway, 1, slot=0)  # nobody listens there
    announce(gateway, scorer.server_port, slot=1)
    for _ in range(3):
        answer = score(gateway, "one", "two")
        assert answer.status_code == 200
        assert answer.json()["model"] == "base-1"
        assert len(answer.json()["scores"]) == 2


def test_who_hangs_up_is_not_scored_for(gateway: Running) -> None:
    with socket.create_server(("127.0.0.1", 0)) as worker:
        announce(gateway, worker.getsockname()[1])
        with pytest.raises(httpx.ReadTimeout):
            gateway.client.post("/v1/score", json={"texts": ["one"]}, timeout=1)
        called, _ = worker.accept()
        with called:
            called.settimeout(10)
            while called.recv(65_536):  # until the gateway hangs up, too
                pass


def test_without_a_live_worker_scoring_is_503(gateway: Running, scorer: ThreadingHTTPServer) -> None:
    announce(gateway, scorer.server_port, age_ms=6_000)
    assert problem(score(gateway, "one"), 503)["type"].endswith("unavailable")
    assert score(gateway, "one").headers["retry-after"]


def test_a_worker_that_cannot_be_reached_is_503(gateway: Running) -> None:
    announce(gateway, 1)  # alive by its row, but nobody listens there
    answer = score(gateway, "one")
    assert problem(answer, 503)["type"].endswith("unavailable")
    assert int(answer.headers["retry-after"]) >= 1


def test_a_workers_reason_reaches_the_client(gateway: Running, scorer: ThreadingHTTPServer) -> None:
    announce(gateway, scorer.server_port)
    refused = Problem(422, "tokenizer", "texts[1]: odd", errors=[FieldError("texts[1]", "odd")])
    scorer.answer = (422, msgspec.json.encode(refused.body))  # type: ignore[attr-defined]
    body = problem(score(gateway, "one", "two"), 422)
    assert body["type"] == "urn:tickerloop:problem:tokenizer"
    assert body["errors"][0] == {"field": "texts[1]", "detail": "odd"}


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ((503, b"{}"), 503),
        ((500, b"{}"), 502),
        ((200, b"\xff"), 502),
        ((200, b'{"scores":[]}'), 502),
        ((400, b""), 422),
    ],
)
def test_a_worker_that_fails(
    gateway: Running, scorer: ThreadingHTTPServer, answer: tuple[int, bytes], status: int
) -> None:
    announce(gateway, scorer.server_port)
    scorer.answer = answer  # type: ignore[attr-defined]
    problem(score(gateway, "one"), status)


def explain(gateway: Running, text: str = "Profit soared", **more: object) -> httpx.Response:
    return gateway.client.post("/v1/explain", json={"text": text, **more})


def test_explaining_is_forwarded_to_a_live_worker(gateway: Running, scorer: ThreadingHTTPServer) -> None:
    announce(gateway, 1, slot=0)  # nobody listens there
    announce(gateway, scorer.server_port, slot=1)
    answer = explain(gateway)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["model"], body["label"], body["explained"]) == ("base-1", "neutral", "neutral")
    assert body["tokens"][1] == {"text": "soared", "start": 7, "end": 13, "attribution": -1.0}
    assert explain(gateway, label="positive").json()["explained"] == "positive"


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ((503, b"{}"), 503),
        ((500, b"{}"), 502),
        ((200, b"\xff"), 502),
        ((200, b'{"tokens":[]}'), 502),
        ((400, b""), 422),
    ],
)
def test_a_worker_that_fails_to_explain(
    gateway: Running, scorer: ThreadingHTTPServer, answer: tuple[int, bytes], status: int
) -> None:
    announce(gateway, scorer.server_port)
    scorer.answer = answer  # type: ignore[attr-defined]
    response = explain(gateway)
    problem(response, status)
    assert ("retry-after" in response.headers) == (status == 503)


def test_why_a_text_cannot_be_explained_reaches_the_client(gateway: Running, scorer: ThreadingHTTPServer) -> None:
    announce(gateway, scorer.server_port)
    refused = Problem(422, "tokenizer", "text: odd", errors=[FieldError("text", "odd")])
    scorer.answer = (422, msgspec.json.encode(refused.body))  # type: ignore[attr-defined]
    assert problem(explain(gateway), 422)["errors"] == [{"field": "text", "detail": "odd"}]


def test_bad_texts_to_explain(gateway: Running) -> None:
    for body in ({}, {"text": 7}, {"text": ["one"]}, {"text": "x" * 20_001}, {"text": "x", "label": "up"}):
        problem(gateway.client.post("/v1/explain", json=body), 422)
    problem(gateway.client.post("/v1/explain", content=b'{"text": "\\ud83d"}'), 400)
    problem(explain(gateway), 503)  # nobody is there


def test_an_explanation_takes_as_much_of_the_allowance_as_many_scores(
    start: Start, scorer: ThreadingHTTPServer
) -> None:
    gateway = start(rate=1, burst=300)
    announce(gateway, scorer.server_port)
    assert explain(gateway).is_success
    assert score(gateway, "one").is_success
    assert problem(explain(gateway), 429)["detail"]


def test_bad_texts_to_score(gateway: Running) -> None:
    for texts in ([], ["x"] * 257, ["x" * 20_001], [7], [None]):
        problem(score(gateway, *texts), 422)
    problem(gateway.client.post("/v1/score", json={"texts": "one"}), 422)
    problem(gateway.client.post("/v1/score", content=b"\xff"), 400)


def test_health(gateway: Running, scorer: ThreadingHTTPServer) -> None:
    assert gateway.client.get("/healthz").json() == {"status": "up"}
    body = problem(gateway.client.get("/readyz"), 503)
    assert [entry["field"] for entry in body["errors"]] == ["score"]
    announce(gateway, scorer.server_port)
    assert _ready(gateway, 200).json() == {"status": "ready"}
    gateway.execute("UPDATE service SET beat = 0")
    assert "score" in problem(_ready(gateway, 503), 503)["detail"]


def _ready(gateway: Running, status: int) -> httpx.Response:
    """The answer once it has that status: the list of workers is up to a second old."""
    deadline = time.monotonic() + 5
    while (answer := gateway.client.get("/readyz")).status_code != status and time.monotonic() < deadline:
        time.sleep(0.05)
    return answer


def test_readers_of_the_status_share_one_answer(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Settings] = []
    collect = status.collect
    monkeypatch.setattr(status, "collect", lambda settings: asked.append(settings) or collect(settings))  # type: ignore[func-returns-value]
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda _: gateway.client.get("/v1/status"), range(16)))
    assert {answer.json()["account"]["taken"] for answer in answers} == {0}
    assert len(asked) <= 2


def test_metrics(gateway: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    before = REGISTRY.get_sample_value("tickerloop_accepted_total") or 0
    gateway.client.post("/v1/texts", json=[{"text": "a"}, {"text": "b"}])
    gateway.client.post("/v1/texts", content=b"{")
    text = gateway.client.get("/metrics").text
    assert f"tickerloop_accepted_total {before + 2}" in text
    assert re.search(r'tickerloop_refused_total\{status="400"\} [1-9]', text)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    assert gateway.client.get("/metrics").status_code == 200


def test_openapi_describes_bodies_and_errors(gateway: Running) -> None:
    document = gateway.client.get("/schema/openapi.json").json()
    texts = document["paths"]["/v1/texts"]["post"]
    assert set(texts["requestBody"]["content"]) == {"application/json", "application/x-ndjson"}
    assert "application/problem+json" in texts["responses"]["429"]["content"]
    assert {"/v1/score", "/v1/explain", "/v1/stream", "/v1/feedback", "/v1/models/{version}/promote"} <= set(
        document["paths"]
    )


@pytest.mark.parametrize("path", ["/", "/page/page.js", "/v1/predictions", "/nope", "/schema/openapi.json", "/metrics"])
def test_every_answer_carries_the_security_headers(gateway: Running, path: str) -> None:
    headers = gateway.client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "server" not in headers


def test_nothing_comes_from_another_host(gateway: Running) -> None:
    for path in ("/", "/page/page.js", "/page/page.css", "/schema"):
        assert not re.search(r"(src|href|url|import)\W{1,3}https?://", gateway.client.get(path).text), path


def test_a_file_the_browser_has_is_not_sent_again(gateway: Running) -> None:
    tag = gateway.client.get("/page/page.js").headers["etag"]
    assert gateway.client.get("/page/page.js", headers={"If-None-Match": tag}).status_code == 304


def test_foreign_pages_and_foreign_names_are_refused(gateway: Running) -> None:
    text = {"text": "x"}
    own = gateway.url
    assert gateway.client.post("/v1/texts", json=text, headers={"Origin": own}).status_code == 202
    problem(gateway.client.post("/v1/texts", json=text, headers={"Origin": "https://evil.example"}), 403)
    problem(gateway.client.post("/v1/texts", json=text, headers={"Origin": "null"}), 403)
    problem(gateway.client.post("/v1/texts", json=text, headers={"Sec-Fetch-Site": "cross-site"}), 403)
    for host in ("evil.example", "127.0.0.1.evil.example", "[", ""):
        problem(gateway.client.get("/healthz", headers={"Host": host}), 421)
    assert gateway.client.get("/healthz", headers={"Host": "localhost:1"}).status_code == 200


def test_only_the_names_that_are_set_are_answered(start: Start, database: str) -> None:
    key = bearer(new_key(database))  # without one only loopback's names may be set
    gateway = start(hosts="Loop.example, 127.0.0.1")
    for host, code in (("loop.example:8080", 200), ("127.0.0.1", 200), ("localhost", 421), ("evil.example", 421)):
        assert httpx.get(f"{gateway.url}/v1/models", headers={"Host": host} | key).status_code == code, host


def test_names_follow_the_address_where_none_are_set() -> None:
    assert answered("127.0.0.1", "") == answered("localhost", " ,") == LOOPBACK
    assert answered("192.0.2.1", "") is None
    assert answered("192.0.2.1", "localhost,127.0.0.1") == {"localhost", "127.0.0.1"}


def test_a_path_cannot_forge_a_line_of_the_log(gateway: Running, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        problem(gateway.client.get("/nope%0a2026-01-01%20INFO%20forged"), 404)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "services.gateway.edge"]
    assert "forged" in line
    assert "\n" not in line


def test_other_errors_are_problems_too(gateway: Running) -> None:
    problem(gateway.client.get("/nope"), 404)
    assert "POST" in gateway.client.delete("/v1/texts").headers["allow"]
    problem(gateway.client.delete("/v1/texts"), 405)


def test_a_defect_of_ours_is_a_500_without_its_innards(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr("services.trainer.registry.versions", broken)
    assert "secret" not in problem(gateway.client.get("/v1/models"), 500)["detail"]


def test_a_limit_that_is_no_number_is_named() -> None:
    with pytest.raises(Misconfigured, match="TICKERLOOP_GATEWAY_"):
        limits_from({"TICKERLOOP_GATEWAY_RATE": "fast"})
    assert limits_from({"TICKERLOOP_GATEWAY_RATE": "3.5"}).rate == 3.5
