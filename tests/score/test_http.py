"""Score now over HTTP: the worker's own answers, and every error an RFC 9457 problem."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from typing import Any, NamedTuple

import httpx
import pytest

from services.score.engine import Scored
from services.score.http import MAX_CHARS, MAX_TEXTS, ScoreServer
from services.score.lanes import Priority
from services.stream.errors import Rejected, Transient


class Stub:
    """An engine that refuses the text `odd`."""

    def begin(self, texts: Sequence[str], priority: Priority) -> Scoring:
        assert priority is Priority.INTERACTIVE
        return Scoring(texts)


class Scoring:
    """A call to the stub; `slow` lasts until it is given up."""

    given_up = threading.Event()

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def cancel(self) -> None:
        self.given_up.set()

    def result(self) -> list[Scored | Rejected]:
        if "slow" in self._texts:
            assert self.given_up.wait(10)
            raise CancelledError
        return [
            Rejected("tokenizer", "it has no tokens") if text == "odd" else Scored("neutral", (0.1, 0.8, 0.1), False)
            for text in self._texts
        ]


class Current(NamedTuple):
    engine: Any = Stub()
    version: str = "m1"
    epoch: int = 7


class Holder:
    """Holds a model, or says why not."""

    failure: Exception | None = None

    @property
    def current(self) -> Current:
        if self.failure is not None:
            raise self.failure
        return Current()


@pytest.fixture
def holder() -> Holder:
    return Holder()


@pytest.fixture
def client(holder: Holder) -> Iterator[httpx.Client]:
    with ScoreServer(holder, "127.0.0.1", 0) as server, httpx.Client(base_url=server.address) as client:
        yield client


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    return body


def test_answers_in_order(client: httpx.Client) -> None:
    answer = client.post("/score", json={"texts": ["one", "two"]})
    score = {"label": "neutral", "probabilities": [0.1, 0.8, 0.1], "truncated": False}
    assert answer.json() == {"model": "m1", "epoch": 7, "scores": [score, score]}


def test_who_hangs_up_is_not_computed_for(client: httpx.Client) -> None:
    Scoring.given_up.clear()
    with pytest.raises(httpx.ReadTimeout):
        client.post("/score", json={"texts": ["slow"]}, timeout=0.5)
    assert Scoring.given_up.wait(10)
    assert client.post("/score", json={"texts": ["one"]}).status_code == 200


def test_a_text_that_cannot_be_scored_is_named_with_its_reason(client: httpx.Client) -> None:
    body = problem(client.post("/score", json={"texts": ["one", "odd"]}), 422)
    assert body["type"] == "urn:tickerloop:problem:tokenizer"
    assert body["detail"] == "texts[1]: it has no tokens"
    assert [error["field"] for error in body["errors"]] == ["texts[1]"]


@pytest.mark.parametrize("texts", [[], ["x"] * (MAX_TEXTS + 1), ["x" * (MAX_CHARS + 1)], [7], "one"], ids=range(5))
def test_a_bad_request(client: httpx.Client, texts: object) -> None:
    problem(client.post("/score", json={"texts": texts}), 422)


def test_a_body_that_is_no_json(client: httpx.Client) -> None:
    problem(client.post("/score", content=b"\xff"), 400)


def test_without_a_model_it_says_when_to_come_back(client: httpx.Client, holder: Holder) -> None:
    holder.failure = Transient("no model is in service yet")
    answer = client.post("/score", json={"texts": ["one"]})
    assert problem(answer, 503)["detail"] == "no model is in service yet"
    assert int(answer.headers["retry-after"]) >= 1


def test_a_defect_is_a_problem_too(client: httpx.Client, holder: Holder) -> None:
    holder.failure = RuntimeError("defect")
    assert "defect" not in problem(client.post("/score", json={"texts": ["one"]}), 500)["detail"]


def test_an_ipv6_address_is_written_as_clients_need_it(holder: Holder) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with ScoreServer(holder, "::1", 0) as server:
        assert server.address.startswith("http://[::1]:")
        assert httpx.post(f"{server.address}/score", json={"texts": ["one"]}).status_code == 200
