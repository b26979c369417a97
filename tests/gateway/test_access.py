"""Who may do what: each role on each route, whose words they are, and what happens when a key no longer holds."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, get_args

import httpx
import psycopg2
import pytest
from gateway_kit import Running, Start, bearer, made, new_key, problem
from litestar.routes import HTTPRoute

from services import keys
from services.gateway.access import admit
from services.gateway.app import build
from services.gateway.limits import Limiter, Limits
from services.gateway.names import check_reach
from services.gateway.problems import Problem
from services.keys import Role
from services.runtime import Context, now_ms
from services.settings import Settings
from services.stream import topics
from services.stream.database import migrate
from services.stream.errors import Misconfigured
from services.stream.events import Feedback, decode
from services.supervisor.servers import PostgresServer

TAKES: Final = {
    ("GET", "/"): None,
    ("GET", "/learning"): None,
    ("GET", "/page/common.js"): None,
    ("GET", "/page/learning.js"): None,
    ("GET", "/page/page.js"): None,
    ("GET", "/page/page.css"): None,
    ("GET", "/page/icon.svg"): None,
    ("GET", "/healthz"): None,
    ("GET", "/readyz"): None,
    ("GET", "/metrics"): "reader",
    ("GET", "/schema"): "reader",
    ("GET", "/schema/openapi.json"): "reader",
    ("GET", "/schema/{path}"): "reader",
    ("GET", "/v1/key"): "reader",
    ("GET", "/v1/status"): "reader",
    ("GET", "/v1/stream"): "reader",
    ("GET", "/v1/predictions"): "reader",
    ("GET", "/v1/predictions/{prediction_id}"): "reader",
    ("GET", "/v1/tickers/{ticker}"): "reader",
    ("GET", "/v1/tickers/{ticker}/windows"): "reader",
    ("GET", "/v1/models"): "reader",
    ("GET", "/v1/models/{version}"): "reader",
    ("GET", "/v1/ledger"): "reader",
    ("GET", "/v1/training"): "reader",
    ("GET", "/v1/training/runs"): "reader",
    ("GET", "/v1/training/curve.svg"): "reader",
    ("GET", "/v1/standing"): "reader",
    ("POST", "/v1/score"): "reader",
    ("POST", "/v1/explain"): "reader",
    ("POST", "/v1/texts"): "source",
    ("POST", "/v1/feedback"): "annotator",
    ("DELETE", "/v1/feedback/{feedback_id}"): "annotator",
    ("GET", "/v1/predictions/{prediction_id}/feedback"): "operator",
    ("POST", "/v1/outcomes"): "operator",
    ("GET", "/v1/annotators"): "operator",
    ("GET", "/v1/quarantine"): "operator",
    ("POST", "/v1/quarantine/{finding}/release"): "operator",
    ("POST", "/v1/quarantine/{finding}/refuse"): "operator",
    ("POST", "/v1/review/leases"): "annotator",
    ("DELETE", "/v1/review/leases/{lease_id}"): "annotator",
    ("GET", "/v1/predictions/{prediction_id}/lineage"): "annotator",
    ("POST", "/v1/models/{version}/promote"): "operator",
    ("POST", "/v1/models/{version}/shadow"): "operator",
    ("POST", "/v1/models/unshadow"): "operator",
    ("POST", "/v1/models/rollback"): "operator",
    ("POST", "/v1/models/{version}/approve"): "operator",
    ("POST", "/v1/models/{version}/reject"): "operator",
    ("POST", "/v1/models/pin"): "operator",
    ("POST", "/v1/models/unpin"): "operator",
    ("DELETE", "/v1/texts/{text_id}"): "operator",
    ("DELETE", "/v1/annotators/{name}"): "operator",
}
"""Every route, and the least role that may use it; None is for anyone."""
HOLDERS: Final = {
    "source": {"source", "operator"},
    "reader": {"reader", "annotator", "operator"},
    "annotator": {"annotator", "operator"},
    "operator": {"operator"},
}


def routes() -> list[tuple[str, str]]:
    """Those of the application, but for what only lists a path's methods."""
    settings: Any = SimpleNamespace(limits=Limits(), settings=Settings(database="postgresql://x"))
    app: Any = build(settings)
    return [
        (method, route.path_format)
        for route in app._app.routes
        if isinstance(route, HTTPRoute)
        for method in route.methods
        if method != "OPTIONS"
    ]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.keyring.READ_S", 0.05)


def until(true: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ask(gateway: Running, method: str, path: str, key: str | None = None) -> int:
    """The status alone; a stream is hung up at once."""
    place = path.replace("{finding}", "1").replace("{", "").replace("}", "")
    headers = bearer(key) if key else {}
    with httpx.stream(method, gateway.url + place, headers=headers, json=[] if method == "POST" else None) as answer:
        return answer.status_code


def execute(database: str, query: str, *arguments: object) -> list[tuple[Any, ...]]:
    with contextlib.closing(psycopg2.connect(database)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(query, arguments)
        return cursor.fetchall() if cursor.description else []


def revoke(database: str, key: str) -> None:
    execute(database, "UPDATE api_key SET revoked = 1 WHERE id = %s", key.split("_")[1])


def test_every_route_says_who_may_use_it() -> None:
    assert sorted(routes()) == sorted(TAKES)


def test_each_role_may_do_what_is_its_own_and_nothing_else(start: Start, database: str) -> None:
    held = {role: new_key(database, role, name=role) for role in get_args(Role)}
    gateway = start()
    found = {
        (method, path, role): ask(gateway, method, path, key) for method, path in routes() for role, key in held.items()
    }
    for (method, path, role), status in found.items():
        takes = TAKES[method, path]
        assert (status == 403) == (takes is not None and role not in HOLDERS[takes]), (method, path, role, status)
        assert status not in (401, 500), (method, path, role)


def test_without_a_key_only_the_pages_files_and_the_probes_are_served(start: Start, database: str) -> None:
    new_key(database)
    gateway = start()
    for method, path in routes():
        status = ask(gateway, method, path)
        assert (status == 401) == (TAKES[method, path] is not None), (method, path, status)
    answer = gateway.client.get("/v1/predictions")
    assert problem(answer, 401)["detail"].startswith("an API key is needed")
    assert answer.headers["www-authenticate"] == 'Bearer realm="tickerloop"'
    assert gateway.client.options("/v1/predictions").status_code == 401
    problem(gateway.client.get("/nope"), 404)


@pytest.mark.parametrize(("role", "status"), [("annotator", 403), ("operator", None)])
def test_a_route_that_names_no_role_takes_an_operator(role: Role, status: int | None) -> None:
    key = keys.Key(id="0", name="ana", role=role, created=0)
    keyring = SimpleNamespace(needed=True, find=lambda _: key)
    gateway = SimpleNamespace(keyring=keyring, limits=Limits(), limiter=Limiter(Limits(), ""))
    connection: Any = SimpleNamespace(
        app=SimpleNamespace(state=SimpleNamespace(gateway=gateway)),
        client=None,
        scope={},
        headers={"authorization": "Bearer x"},
    )
    route: Any = SimpleNamespace(opt={})
    if status is None:
        asyncio.run(admit(connection, route))
        assert connection.scope["user"] == key
    else:
        with pytest.raises(Problem, match="takes the role operator"):
            asyncio.run(admit(connection, route))


def test_what_is_no_key_is_401(start: Start, database: str) -> None:
    new_key(database)
    gateway = start()
    unknown = "tl_000000000000_" + 40 * "0"
    for header in (
        "Bearer",
        "Bearer tl_",
        "Basic dGw6eA==",
        unknown,
        f"Bearer {unknown}",
        "Bearer \xff\xfe",
        9_999 * "x",
    ):
        answer = gateway.client.get("/v1/models", headers={"Authorization": header.encode("latin-1")})
        assert "no API key" in problem(answer, 401)["detail"]
        assert answer.headers["www-authenticate"] == 'Bearer realm="tickerloop", error="invalid_token"'


def test_a_key_with_one_wrong_character_is_401(start: Start, database: str) -> None:
    key = new_key(database)
    gateway = start()
    assert gateway.client.get("/v1/predictions", headers=bearer(key)).status_code == 200
    assert gateway.client.get("/v1/predictions", headers={"authorization": f"bearer {key}"}).status_code == 200
    last = "1" if key[-1] == "0" else "0"
    for wrong in (key[:-1] + last, key[:-1], key + "0", key.upper(), "x" + key):
        problem(gateway.client.get("/v1/predictions", headers=bearer(wrong)), 401)


def test_wrong_keys_use_up_the_allowance_of_who_sends_them(start: Start, database: str) -> None:
    key = new_key(database)
    gateway = start(rate=1, burst=100)
    answers = [gateway.client.get("/v1/predictions", headers=bearer("tl_wrong")) for _ in range(10)]
    assert [answer.status_code for answer in answers[:9]] == 9 * [401]
    refused = gateway.client.get("/v1/predictions", headers=bearer("tl_wrong"))
    assert problem(refused, 429)["type"].endswith("rate-limited")
    assert int(refused.headers["retry-after"]) >= 1
    until(lambda: gateway.client.get("/v1/predictions", headers=bearer(key)).status_code == 200)


def test_keys_are_compared_in_constant_time(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key = new_key(database)
    with contextlib.closing(psycopg2.connect(database)) as connection, connection.cursor() as cursor:
        stored = keys.unrevoked(cursor)
    compared: list[tuple[str, str]] = []

    class Recorder:
        @staticmethod
        def compare_digest(a: str, b: str) -> bool:
            compared.append((a, b))
            return hmac.compare_digest(a, b)

    monkeypatch.setattr("services.keys.hmac", Recorder)
    held = keys.found(stored, key)
    assert held is not None and held.name == "ana"
    wrong = key[:-1] + ("1" if key[-1] == "0" else "0")
    assert keys.found(stored, wrong) is None
    assert compared == [(keys.digest(key), keys.digest(key)), (keys.digest(key), keys.digest(wrong))]


def test_feedback_is_the_keys_own_whatever_the_body_says(start: Start, database: str) -> None:
    headers = bearer(new_key(database, "annotator", name="ana"))
    gateway = start()
    gateway.store(made(1))
    body = {"prediction_id": made(1).prediction_id, "label": "negative"}
    assert gateway.client.post("/v1/feedback", json=body, headers=headers).status_code == 202
    same = gateway.client.post("/v1/feedback", json=body | {"annotator": "ana"}, headers=headers)
    forged = gateway.client.post("/v1/feedback", json=body | {"annotator": "bob"}, headers=headers)
    assert same.status_code == 202
    assert "this key is ana's" in problem(forged, 403)["detail"]
    events = [decode(Feedback, record.value) for record in gateway.records(topics.FEEDBACK)]
    named = dict(gateway.execute("SELECT pseudonym, name FROM annotator"))
    assert [named[event.annotator] for event in events] == ["ana", "ana"]


def test_a_promotion_is_the_keys_own_too(start: Start, database: str) -> None:
    headers = bearer(new_key(database, name="ops"))
    gateway = start()
    execute(database, "INSERT INTO model_version VALUES ('v1', NULL, '{}', '{}', 0)")
    body = {"reason": "better", "expected_epoch": 0}
    changes = [path for (method, path), role in TAKES.items() if (method, role) == ("POST", "operator")]
    for path in set(changes) - {"/v1/outcomes"}:
        where = path.format(version="v1", finding=1)
        forged = gateway.client.post(where, json=body | {"actor": "trainer"}, headers=headers)
        assert "this key is ops's" in problem(forged, 403)["detail"]
    assert gateway.client.post("/v1/models/v1/promote", json=body, headers=headers).status_code == 200
    assert execute(database, "SELECT actor FROM ledger") == [("ops",)]


def test_without_keys_loopback_takes_the_name_as_given_and_needs_one(gateway: Running) -> None:
    gateway.store(made(1))
    assert gateway.client.get("/v1/key").json() == {"name": None, "role": "operator", "expires": None}
    body = {"prediction_id": made(1).prediction_id, "label": "negative"}
    assert problem(gateway.client.post("/v1/feedback", json=body), 422)["errors"][0]["field"] == "annotator"
    assert gateway.client.post("/v1/feedback", json=body | {"annotator": "who"}).status_code == 202
    assert gateway.client.get("/v1/predictions", headers=bearer("tl_unneeded")).status_code == 200


def test_with_the_first_key_everyone_needs_one_and_open_streams_end(gateway: Running, database: str) -> None:
    ended = threading.Event()

    def listen() -> None:
        with httpx.stream("GET", f"{gateway.url}/v1/stream", timeout=20) as answer:
            for _ in answer.iter_bytes():
                pass
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    assert not ended.wait(0.5)
    key = new_key(database)
    until(lambda: gateway.client.get("/v1/predictions").status_code == 401)
    assert ended.wait(5)
    assert gateway.client.get("/v1/predictions", headers=bearer(key)).status_code == 200
    revoke(database, key)
    until(lambda: gateway.client.get("/v1/predictions").status_code == 200)


def test_a_revoked_key_no_longer_holds_and_its_stream_ends(start: Start, database: str) -> None:
    kept, lost = new_key(database, name="ana"), new_key(database, "reader", name="bob")
    gateway = start()
    ends: dict[str, threading.Event] = {key: threading.Event() for key in (kept, lost)}

    def listen(key: str) -> None:
        with httpx.stream("GET", f"{gateway.url}/v1/stream", headers=bearer(key), timeout=20) as answer:
            assert answer.status_code == 200
            for _ in answer.iter_bytes():
                pass
        ends[key].set()

    for key in ends:
        threading.Thread(target=listen, args=(key,), daemon=True).start()
    until(lambda: ask(gateway, "GET", "/v1/predictions", lost) == 200)
    time.sleep(0.3)
    revoke(database, lost)
    until(lambda: ask(gateway, "GET", "/v1/predictions", lost) == 401, seconds=2)
    assert ends[lost].wait(5) and not ends[kept].is_set()
    assert ask(gateway, "GET", "/v1/predictions", kept) == 200


def test_an_expired_key_no_longer_holds_and_opens_nothing(start: Start, database: str) -> None:
    key = new_key(database, expires_ms=1_500)
    gateway = start()
    answer = gateway.client.get("/v1/key", headers=bearer(key))
    assert answer.status_code == 401 or answer.json()["expires"] > now_ms()
    until(lambda: ask(gateway, "GET", "/v1/predictions", key) == 401, seconds=5)
    assert ask(gateway, "GET", "/v1/predictions") == 401, "the last key to expire must not open the gateway"


def test_a_lost_database_lets_nobody_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.keyring.STALE_S", 0.5)
    server = PostgresServer(folder / "data", folder / "logs")
    server.start()
    migrate(server.url)
    key = new_key(server.url)
    gateway = Running(Settings(database=server.url, port=0))
    gateway.bus.create_topics()
    gateway.start()
    try:
        assert ask(gateway, "GET", "/v1/models", key) == 200
        server.stop()
        time.sleep(0.6)
        for given in (key, "tl_wrong", None):
            answer = gateway.client.get("/v1/models", headers=bearer(given) if given else {})
            assert "the database is away" in problem(answer, 503)["detail"]
            assert answer.headers["retry-after"]
        assert ask(gateway, "GET", "/healthz") == ask(gateway, "GET", "/") == 200
        server.start()
        until(lambda: ask(gateway, "GET", "/v1/models", key) == 200)
        assert ask(gateway, "GET", "/v1/models") == 401
    finally:
        gateway.stop()
        server.stop()


@pytest.mark.parametrize(
    ("bound", "hosts", "serves"),
    [
        ("127.0.0.1", "", True),
        ("localhost", "", True),
        ("::1", "", True),
        ("127.0.0.1", "localhost, 127.0.0.1", True),
        ("127.0.0.1", "loop.example", False),
        ("0.0.0.0", "", False),  # noqa: S104
        ("0.0.0.0", "localhost,127.0.0.1", False),  # noqa: S104
        ("::", "", False),
        ("192.0.2.1", "", False),
        ("loop.example", "", False),
    ],
)
def test_without_a_key_this_machine_alone_is_served(bound: str, hosts: str, serves: bool) -> None:
    check_reach(bound, hosts, keys=True)
    if serves:
        check_reach(bound, hosts, keys=False)
    else:
        with pytest.raises(Misconfigured, match="tickerloop keys create NAME --role operator"):
            check_reach(bound, hosts, keys=False)


def test_a_gateway_for_others_starts_with_a_key_only_and_stays_shut_without(database: str) -> None:
    from services.gateway.service import serve

    settings = Settings(database=database, port=0, host="0.0.0.0")  # noqa: S104
    with pytest.raises(Misconfigured, match=r"not on 0\.0\.0\.0"):
        serve(Context(settings, "gateway"))
    key = new_key(database)
    gateway = Running(settings)
    gateway.bus.create_topics()
    gateway.start()
    try:
        assert ask(gateway, "GET", "/v1/predictions", key) == 200
        revoke(database, key)
        until(lambda: ask(gateway, "GET", "/v1/predictions", key) == 401)
        assert ask(gateway, "GET", "/v1/predictions") == 401, "without any key it must not open"
    finally:
        gateway.stop()


def test_a_key_is_in_no_log_and_no_answer(start: Start, database: str, caplog: pytest.LogCaptureFixture) -> None:
    key = new_key(database, "reader")
    secret = key.split("_")[2]
    gateway = start()
    caplog.clear()

    def lines(*loggers: str) -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name.startswith(loggers)]

    with caplog.at_level(logging.DEBUG):
        answers = [
            gateway.client.get("/v1/predictions", headers=bearer(key)),
            gateway.client.get("/v1/predictions", headers=bearer(key + "0")),
            gateway.client.get(f"/v1/predictions?key={key}"),
            gateway.client.get(f"/v1/{key}", headers=bearer(key)),
            gateway.client.get(f"/{key}/%74l_{key[3:]}"),
            gateway.client.post("/v1/models/rollback", headers=bearer(key)),
            gateway.client.post("/v1/texts", headers=bearer(key), content=b"{"),
        ]
        until(lambda: len(lines("services.gateway.edge")) == len(answers))  # a line is written after its answer
    assert not any(secret in line for line in lines("services", "uvicorn", "litestar"))
    assert not any(secret in answer.text + str(answer.headers) for answer in answers)
    assert [answer.status_code for answer in answers] == [200, 401, 401, 404, 404, 403, 403]


def test_the_last_use_is_kept_once_a_minute(start: Start, database: str) -> None:
    key = new_key(database)
    gateway = start()
    used = "SELECT used FROM api_key"
    assert execute(database, used) == [(None,)]
    ask(gateway, "GET", "/v1/predictions", key)
    until(lambda: execute(database, used) != [(None,)])
    first = execute(database, used)
    for _ in range(5):
        ask(gateway, "GET", "/v1/predictions", key)
        time.sleep(0.1)
    assert execute(database, used) == first
    execute(database, "UPDATE api_key SET used = used - 61000")
    ask(gateway, "GET", "/v1/predictions", key)
    until(lambda: execute(database, used) >= first)


def test_a_key_whose_row_is_locked_holds_up_nobody(start: Start, database: str) -> None:
    key = new_key(database)
    gateway = start()
    with contextlib.closing(psycopg2.connect(database)) as other, other.cursor() as cursor:
        cursor.execute("SELECT FROM api_key FOR UPDATE")
        for _ in range(5):
            assert ask(gateway, "GET", "/v1/predictions", key) == 200
            time.sleep(0.1)
        late = new_key(database)
        until(lambda: ask(gateway, "GET", "/v1/predictions", late) == 200, seconds=3)
        other.rollback()


def test_openapi_names_the_scheme_and_what_needs_it(gateway: Running) -> None:
    document = gateway.client.get("/schema/openapi.json").json()
    (scheme,) = document["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    operations = {
        (method.upper(), path): operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }
    for place, operation in operations.items():
        assert bool(operation.get("security")) == (TAKES[place] is not None), place
        if TAKES[place]:
            assert {"401", "403"} <= set(operation["responses"]), place
