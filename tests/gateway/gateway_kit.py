"""What the gateway's tests share: a gateway in a thread, and events to feed it with."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import psycopg2

from services import keys
from services.gateway.service import serve
from services.keys import Role
from services.runtime import Context, now_ms
from services.settings import Settings
from services.stream import topics
from services.stream.bus import Bus, Outgoing, Record
from services.stream.events import CleanText, ModelAction, ModelChange, Origin, Prediction, encode, prediction_id
from services.trainer import registry
from services.trainer.accuracy import accuracy


class Running:
    """A gateway in a thread, and hands on everything around it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.context = Context(settings, "gateway")
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.bus: Bus = settings.open_bus("test")

    def _serve(self) -> None:
        try:
            serve(self.context)
        except BaseException as error:
            self.error = error

    def start(self) -> Running:
        self._thread.start()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.error is None:
            with contextlib.suppress(httpx.HTTPError):
                if self.context.address and httpx.get(f"{self.url}/healthz").is_success:
                    self.client = httpx.Client(base_url=self.url, timeout=20)
                    return self
            time.sleep(0.02)
        raise AssertionError(f"the gateway does not start: {self.error}")

    @property
    def url(self) -> str:
        assert self.context.address
        return self.context.address

    def stop(self) -> None:
        self.context.stop.set()
        self._thread.join(timeout=20)
        assert not self._thread.is_alive(), "the gateway does not stop"
        self.client.close()
        self.bus.close()

    def execute(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        with contextlib.closing(psycopg2.connect(self.settings.database)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(query, arguments)
                return cursor.fetchall() if cursor.description else []

    def records(self, topic: str) -> list[Record]:
        ends = self.bus.ends(topic)
        reader = self.bus.reader([topic])
        found: list[Record] = []
        try:
            while any(reader.positions()[place] < end for place, end in ends.items()):
                found += reader.poll(0.1)
            return found
        finally:
            reader.close()

    def publish(self, *predictions: Prediction, texts: bool = True) -> None:
        """As the loop does it: a text's clean record first, its prediction after it."""
        if texts:
            self.bus.publish([outgoing(clean(p)) for p in predictions])
        self.bus.publish([outgoing(p) for p in predictions])

    def promote(self, epoch: int, version: str, action: ModelAction = "promote") -> None:
        change = ModelChange(epoch=epoch, version=version, action=action, previous=None, at=now_ms())
        self.bus.publish([Outgoing(topics.MODELS, version.encode(), encode(change))])

    def store(self, *predictions: Prediction, texts: bool = True) -> None:
        """The rows that the store would write."""
        for p in predictions:
            self.execute(
                "INSERT INTO prediction (prediction_id, text_id, cluster, label, negative, neutral, positive, model,"
                " epoch, tickers, source, language, event_time, scored, truncated, abstained, origin_partition,"
                " origin_offset) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 0, 0)",
                p.prediction_id, p.text_id, p.cluster, p.label, *p.probabilities, p.model, p.epoch, list(p.tickers),
                p.source, p.language, p.event_time, p.scored, p.truncated, p.abstained,
            )  # fmt: skip
            if texts:
                self.execute(
                    "INSERT INTO text (text_id, cluster, body, source, language, marks, event_time, received)"
                    " VALUES (%s, %s, %s, %s, 'en', '{}', %s, %s)",
                    p.text_id, p.cluster, body_of(p), p.source, p.event_time, p.event_time,
                )  # fmt: skip


def body_of(prediction: Prediction) -> str:
    return f"text of {prediction.text_id}"


def clean(p: Prediction, body: str | None = None) -> CleanText:
    return CleanText(
        text_id=p.text_id,
        cluster=p.cluster,
        text=body or body_of(p),
        source=p.source,
        event_time=p.event_time,
        received=p.event_time,
        language="en",
        tickers=p.tickers,
        origin=p.origin,
    )


def made(number: int, **changes: Any) -> Prediction:
    fields: dict[str, Any] = {
        "text_id": f"text{number:06}",
        "cluster": f"text{number:06}",
        "label": "positive",
        "probabilities": (0.05, 0.15, 0.8),
        "model": "base-1",
        "epoch": 1,
        "tickers": ("ACME",),
        "source": "test",
        "language": "en",
        "event_time": 1_700_000_000_000 + number,
        "scored": 1_700_000_000_000 + number,
        "origin": Origin(topics.CLEAN, 0, number),
    } | changes
    return Prediction(prediction_id=prediction_id(fields["text_id"], fields["model"]), **fields)


def outgoing(event: Prediction | CleanText) -> Outgoing:
    topic = topics.PREDICTIONS if isinstance(event, Prediction) else topics.CLEAN
    return Outgoing(topic, event.text_id.encode(), encode(event))


Start = Callable[..., Running]
"""Starts a gateway; keywords are limits."""


def register(gateway: Running, *versions: str) -> None:
    for created, version in enumerate(versions):
        gateway.execute(
            "INSERT INTO model_version (version, parent, card, files, created) VALUES (%s, NULL, %s, '{}', %s)",
            version, json.dumps({"labels": ["negative", "neutral", "positive"]}), created,
        )  # fmt: skip


def decide(gateway: Running, path: str, epoch: int, **more: Any) -> Any:
    body = {"actor": "ops", "reason": "better", "expected_epoch": epoch} | more
    return gateway.client.post(f"/v1/models/{path}", json=body)


def judged(gateway: Running, state: str, labels: int, right: int) -> None:
    """A run that came to a verdict on 300 held-out texts."""
    verdict = {"champion": msgspec.to_builtins(accuracy([True] * 150 + [False] * 150)),
               "challenger": msgspec.to_builtins(accuracy([True] * right + [False] * (300 - right)))}  # fmt: skip
    detail = {"version": "v2", "epoch": 2, "method": "head", "learned_from": labels, "reason": "better"}
    gateway.execute(
        "INSERT INTO training_run (trigger, state, upto, detail, started, finished) VALUES ('volume', %s, 0, %s, 5, 9)",
        state, json.dumps(detail | {"verdict": verdict}),
    )  # fmt: skip


SHADOW: dict[str, Any] = {"shadow": {"texts": 200, "agreement": {"rate": 0.71}}}


def propose(gateway: Running, version: str) -> None:
    """As the trainer does it for a challenger that passed the gate and did well as a shadow."""

    def write(cursor: registry.Cursor) -> list[Outgoing]:
        registry.decide(cursor, "pass", version, actor="trainer", reason="better: +9 −1", evidence={"look": 1})
        registry.decide(cursor, "propose", version, actor="trainer", reason="asks", evidence=SHADOW)
        return []

    gateway.bus.write(write)


def announce(gateway: Running, port: int, slot: int = 0, age_ms: int = 0) -> None:
    """A score worker's row in the table of services."""
    gateway.execute(
        "INSERT INTO service (name, slot, pid, address, state, detail, started, beat)"
        " VALUES ('score', %s, 1, %s, 'running', '{}', 0, %s)",
        slot, f"http://127.0.0.1:{port}", now_ms() + 60_000 - age_ms if not age_ms else now_ms() - age_ms,
    )  # fmt: skip


def new_key(database: str, role: Role = "operator", name: str = "ana", expires_ms: int | None = None) -> str:
    """A key, made as the command makes it."""
    now = now_ms()
    with contextlib.closing(psycopg2.connect(database)) as connection, connection, connection.cursor() as cursor:
        _, whole = keys.create(cursor, name, role, now, None if expires_ms is None else now + expires_ms)
    return whole


def bearer(key: str) -> dict[str, str]:
    """The header that carries a key."""
    return {"Authorization": f"Bearer {key}"}


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """Assert a whole RFC 9457 answer and return it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"].startswith("application/problem+json")
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["type"].startswith("urn:tickerloop:problem:")
    assert body["title"]
    assert body["detail"]
    return body
