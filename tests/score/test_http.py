"""Score now over HTTP: the worker's own answers, and every error an RFC 9457 problem."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
import torch
from msgspec.json import decode

from services.score import gradients
from services.score.artifact import Model
from services.score.engine import Engine, Scored
from services.score.explain import Explainer
from services.score.gradients import Gradients
from services.score.http import ScoreServer
from services.score.lanes import Priority
from services.score.wire import MAX_CHARS, MAX_TEXTS, Features
from services.stream.errors import Rejected, Transient


class Stub:
    """An engine that refuses the text `odd`."""

    def score(self, texts: Sequence[str], priority: Priority) -> list[Scored | Rejected]:
        return self.begin(texts, priority).result()

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
    held = Current()

    @property
    def current(self) -> Current:
        if self.failure is not None:
            raise self.failure
        return self.held


@pytest.fixture
def holder() -> Holder:
    return Holder()


@pytest.fixture
def client(holder: Holder) -> Iterator[httpx.Client]:
    with (
        ScoreServer(holder, "127.0.0.1", 0) as server,
        httpx.Client(base_url=server.address, timeout=240) as client,  # the first explanation imports torch
    ):
        yield client


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    return body


def test_answers_in_order(client: httpx.Client) -> None:
    answer = client.post("/score", json={"texts": ["one", "two"]})
    score = {"label": "neutral", "probabilities": [0.1, 0.8, 0.1], "truncated": False, "abstained": False}
    assert answer.json() == {"model": "m1", "epoch": 7, "scores": [score, score]}


def test_features_are_those_a_head_is_trained_on(client: httpx.Client, holder: Holder, engine: Engine) -> None:
    holder.held = Current(engine, "m2", 8)
    texts = ["Profit rises to a record", "Net loss widens again at the group, which cuts its dividend"]
    answer = decode(client.post("/features", json={"texts": texts}).content, type=Features)
    rows = np.frombuffer(answer.rows, "<f4").reshape(2, answer.width)
    assert answer.key == engine.runtime.key
    np.testing.assert_allclose(rows, engine.embed(texts), rtol=1e-3, atol=1e-2)
    problem(client.post("/features", json={"texts": []}), 422)
    holder.failure = Transient("no model is in service yet")
    problem(client.post("/features", json={"texts": texts}), 503)


def test_who_hangs_up_is_not_explained_to(
    client: httpx.Client, holder: Holder, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An explanation of 64 steps, a fifth of a second each at least, is given up after some; another has its turn."""
    holder.held = Current(engine, "m2", 8)
    client.post("/explain", json={"text": "Profit"})  # torch and the model are loaded
    steps, of_embedded = [], Gradients._of_embedded

    def slow(self: Gradients, embedded: torch.Tensor) -> torch.Tensor:
        if embedded.shape[1] == 4:  # two words between the ends
            steps.append(len(embedded))
            time.sleep(0.2)
        return of_embedded(self, embedded)

    monkeypatch.setattr(gradients, "AT_ONCE", 1)
    monkeypatch.setattr(Gradients, "_of_embedded", slow)
    with pytest.raises(httpx.ReadTimeout):
        client.post("/explain", json={"text": "Profit soared"}, timeout=1)
    assert steps, "it hadn't begun"
    assert client.post("/explain", json={"text": "Profit"}).is_success
    assert len(steps) < gradients.STEPS / 2


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


def test_features_are_the_engines_own(client: httpx.Client, holder: Holder, engine: Engine) -> None:
    holder.held = Current(engine, "m2", 8)
    texts = ["Profit soars", "Loss widens"]
    found = client.post("/features", json={"texts": texts}).json()
    rows = np.frombuffer(base64.b64decode(found["rows"]), "<f4").reshape(-1, found["width"])
    assert (found["model"], found["epoch"], found["key"]) == ("m2", 8, engine.runtime.key)
    assert np.allclose(rows, engine.embed(texts), atol=1e-5) and rows.shape[0] == 2
    problem(client.post("/features", json={"texts": []}), 422)
    holder.failure = Transient("no model yet")
    problem(client.post("/features", json={"texts": texts}), 503)


def test_an_explanation(client: httpx.Client, holder: Holder, engine: Engine) -> None:
    holder.held = Current(engine, "m2", 8)
    text = "🚀 Profit soared"
    body = client.post("/explain", json={"text": text}).json()
    (score,) = client.post("/score", json={"texts": [text]}).json()["scores"]
    assert (body["model"], body["epoch"]) == ("m2", 8)
    assert {name: body[name] for name in score} == score
    assert body["explained"] == body["label"]
    assert [(token["text"], token["start"], token["end"]) for token in body["tokens"]] == [
        ("🚀", 0, 1), ("Profit", 2, 8), ("soared", 9, 15),
    ]  # fmt: skip
    added = sum(token["attribution"] for token in body["tokens"])
    assert added == pytest.approx(body["value"] - body["baseline"] + body["gap"])
    asked = client.post("/explain", json={"text": text, "label": "negative"}).json()
    assert (asked["explained"], asked["label"]) == ("negative", body["label"])


@pytest.mark.parametrize("body", [{}, {"text": 7}, {"text": "x" * (MAX_CHARS + 1)}, {"text": "x", "label": "up"}])
def test_a_bad_request_to_explain(client: httpx.Client, body: object) -> None:
    problem(client.post("/explain", json=body), 422)


def test_half_a_pair_is_refused(client: httpx.Client) -> None:
    problem(client.post("/explain", content=b'{"text": "\\ud83d"}'), 400)


def test_what_cannot_be_explained_is_named_with_its_reason(client: httpx.Client) -> None:
    body = problem(client.post("/explain", json={"text": "odd"}), 422)
    assert (body["type"], body["detail"]) == ("urn:tickerloop:problem:tokenizer", "text: it has no tokens")


def test_no_model_no_explanation(client: httpx.Client, holder: Holder) -> None:
    holder.failure = Transient("no model is in service yet")
    assert client.post("/explain", json={"text": "one"}).headers["retry-after"]


def test_a_swap_during_an_explanation_does_not_mix_models(
    client: httpx.Client, holder: Holder, engine: Engine, stubborn: Model
) -> None:
    """The second model calls everything positive: no word adds anything."""

    class Swapped(Engine):
        def score(self, texts: Sequence[str], priority: Priority) -> list[Scored | Rejected]:
            holder.held = Current(Engine(engine.runtime, stubborn), "after", 2)
            return super().score(texts, priority)

    holder.held = Current(Swapped(engine.runtime, engine.model), "before", 1)
    bodies = [client.post("/explain", json={"text": "Profit soared"}).json() for _ in range(2)]
    assert [(body["model"], body["epoch"]) for body in bodies] == [("before", 1), ("after", 2)]
    assert [any(token["attribution"] for token in body["tokens"]) for body in bodies] == [True, False]
    assert bodies[0]["value"] != bodies[0]["baseline"]


def test_one_text_is_explained_at_a_time_and_scoring_goes_on(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, let_go = threading.Event(), threading.Event()

    def explain(*_: object) -> object:
        begun.set()
        let_go.wait(20)
        raise Rejected("tokenizer", "odd")

    monkeypatch.setattr(Explainer, "explain", explain)
    monkeypatch.setattr("services.score.http.TURN_S", 0.2)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(client.post, "/explain", json={"text": "one"})
        assert begun.wait(10)
        second = client.post("/explain", json={"text": "two"})
        score = client.post("/score", json={"texts": ["three"]})
        let_go.set()
    assert problem(second, 503)["detail"] == "other texts are being explained"
    assert second.headers["retry-after"]
    assert score.is_success
    problem(first.result(), 422)
    problem(client.post("/explain", json={"text": "four"}), 422)  # the turn was given back
