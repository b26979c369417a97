"""GET /v1/stream: nothing missed, nothing twice, whatever breaks in between."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest
from gateway_kit import Running, Start, body_of, clean, made, outgoing, problem
from prometheus_client import REGISTRY

from services.gateway.frames import Frame
from services.gateway.stream import History
from services.gateway.tail import Client
from services.settings import Settings
from services.stream import topics
from services.stream.bus import Outgoing, Record, TopicPartition
from services.stream.errors import Transient
from services.supervisor.servers import free_port


class Event(NamedTuple):
    name: str
    event_id: str | None
    data: Any


class Listener:
    """One SSE client, as a browser reads it."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.iter_lines()
        self.last_id: str | None = None
        self.comments = 0

    def __iter__(self) -> Iterator[Event]:
        name, data = "message", ""
        for line in self._lines:
            if line.startswith(":"):
                self.comments += 1
            elif line.startswith("id: "):
                self.last_id = line[4:]
            elif line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                data += line[6:]
            elif not line and data:
                yield Event(name, self.last_id, json.loads(data))
                name, data = "message", ""

    def take(self, count: int, name: str = "prediction") -> list[Event]:
        found: list[Event] = []
        for event in self:
            if event.name == name:
                found.append(event)
            if len(found) == count:
                break
        return found


@contextmanager
def listening(gateway: Running, last_id: str | None = None, **query: str) -> Iterator[Listener]:
    headers = {"Last-Event-ID": last_id} if last_id else {}
    with (
        httpx.Client(timeout=10) as client,
        client.stream("GET", f"{gateway.url}/v1/stream", params=query, headers=headers) as response,
    ):
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        listener = Listener(response)
        (hello,) = listener.take(1, "hello")
        listener.last_id = hello.event_id
        yield listener


def ids(events: list[Event]) -> list[str]:
    return [event.data["prediction_id"] for event in events]


def test_predictions_come_with_their_text_at_once(gateway: Running) -> None:
    with listening(gateway) as listener:
        began = time.monotonic()
        gateway.publish(made(1))
        (event,) = listener.take(1)
        took = time.monotonic() - began
    assert event.data["text"] == body_of(made(1))
    assert event.data["probabilities"] == [0.05, 0.15, 0.8]
    assert event.data["tickers"] == ["ACME"]
    assert took < 0.5


def test_a_text_that_was_not_seen_passing_comes_from_the_table(gateway: Running) -> None:
    gateway.store(made(1))
    with listening(gateway) as listener:
        gateway.publish(made(1), made(2), texts=False)
        events = {event.data["text_id"]: event.data["text"] for event in listener.take(2)}
    assert events == {"text000001": body_of(made(1)), "text000002": None}


def test_the_ticker_filter(gateway: Running) -> None:
    with listening(gateway, ticker="other") as listener:
        gateway.publish(made(1), made(2, tickers=("OTHER", "ACME")), made(3, tickers=()))
        gateway.publish(made(4, tickers=("OTHER",)))
        assert {e.data["text_id"] for e in listener.take(2)} == {"text000002", "text000004"}


def test_resuming_misses_nothing_and_repeats_nothing(gateway: Running) -> None:
    """A writer never rests; the client drops out at odd moments and resumes by the last id it saw."""
    total = 600
    written = threading.Event()

    def write() -> None:
        for first in range(0, total, 10):
            gateway.publish(*(made(n) for n in range(first, first + 10)))
            time.sleep(0.005)
        written.set()

    with listening(gateway) as listener:
        start = listener.last_id
    writer = threading.Thread(target=write)
    writer.start()
    seen: list[str] = []
    last_id, turn = start, 0
    while len(seen) < total:
        turn += 1
        with listening(gateway, last_id) as listener:
            events = listener.take(min(7 * turn, total - len(seen)))
            seen += ids(events)
            last_id = events[-1].event_id
    writer.join()
    assert len(seen) == len(set(seen)) == total


def test_two_clients_that_resume_from_every_position_agree(gateway: Running) -> None:
    with listening(gateway) as listener:
        gateway.publish(*(made(n) for n in range(20)))
        whole = listener.take(20)
    for index in range(0, 19, 3):
        with listening(gateway, whole[index].event_id) as listener:
            assert set(ids(listener.take(19 - index))) == set(ids(whole[index + 1 :]))


def test_resuming_over_a_restart_of_the_gateway(start: Start) -> None:
    first = start()
    with listening(first) as listener:
        first.publish(made(1))
        (event,) = listener.take(1)
    second = start()
    second.publish(made(2))
    with listening(second, event.event_id) as listener:
        second.publish(made(3))
        assert ids(listener.take(2)) == [made(2).prediction_id, made(3).prediction_id]


def test_what_retention_dropped_is_said_and_the_rest_follows(gateway: Running) -> None:
    with listening(gateway) as listener:
        start = listener.last_id
    gateway.publish(made(1))
    gateway.execute("UPDATE log.chunk SET at_ms = 0 WHERE topic = %s", topics.PREDICTIONS)
    assert gateway.bus.expire() == 1
    gateway.publish(made(2))
    with listening(gateway, start) as listener:
        events = []
        for event in listener:
            events.append(event)
            if event.name == "prediction":
                break
    assert [event.name for event in events] == ["truncated", "prediction"]
    assert ids(events[1:]) == [made(2).prediction_id]


def test_a_position_of_another_log_is_said_too(gateway: Running) -> None:
    with listening(gateway, "0:999999-1:5-m:0") as listener:
        assert listener.take(1, "truncated")
        gateway.publish(made(1))
        assert ids(listener.take(1)) == [made(1).prediction_id]


def test_an_id_that_is_not_ours_is_400(gateway: Running) -> None:
    for last_id in ("x", "0", "0:-1", "0:1-", "9" * 30 + ":1", "0:" + "9" * 30, "m:1;0:2"):
        problem(gateway.client.get("/v1/stream", headers={"Last-Event-ID": last_id}), 400)


def test_garbage_on_the_topic_is_passed_over(gateway: Running) -> None:
    with listening(gateway) as listener:
        gateway.bus.publish([Outgoing(topics.PREDICTIONS, b"k", b"\xff{")])
        gateway.publish(made(1))
        assert ids(listener.take(1)) == [made(1).prediction_id]


def test_a_promotion_is_told_and_greets_the_next_client(gateway: Running) -> None:
    with listening(gateway) as listener:
        gateway.promote(4, "child-2")
        (event,) = listener.take(1, "model")
    assert (event.data["epoch"], event.data["version"]) == (4, "child-2")
    with httpx.stream("GET", f"{gateway.url}/v1/stream", timeout=10) as response:
        (hello,) = Listener(response).take(1, "hello")
    assert hello.data["champion"]["version"] == "child-2"


def test_a_shadow_is_not_told_as_a_change_of_the_champion(start: Start) -> None:
    first = start()
    with listening(first) as listener:
        for epoch, action in enumerate(("promote", "shadow", "promote", "shadow", "unshadow"), start=1):
            first.promote(epoch, f"v{epoch}", action)  # type: ignore[arg-type]
        assert [event.data["epoch"] for event in listener.take(2, "model")] == [1, 3]
        first.publish(made(1))
        assert next(iter(listener)).name == "prediction"
    with httpx.stream("GET", f"{start().url}/v1/stream", timeout=10) as response:
        (hello,) = Listener(response).take(1, "hello")
    assert hello.data["champion"]["version"] == "v3"


def test_a_gateway_that_starts_late_knows_the_champion(start: Start) -> None:
    first = start()
    for epoch in range(1, 4):
        first.promote(epoch, f"v{epoch}")
    with httpx.stream("GET", f"{start().url}/v1/stream", timeout=10) as response:
        (hello,) = Listener(response).take(1, "hello")
    assert hello.data["champion"]["epoch"] == 3


def test_heartbeats_carry_the_position(start: Start) -> None:
    gateway = start(heartbeat_s=0.1)
    with listening(gateway, ticker="NONE") as listener:
        before = listener.last_id
        gateway.publish(made(1))
        time.sleep(0.5)
        gateway.publish(made(2, tickers=("NONE",)))
        listener.take(1)
        assert listener.comments >= 2
        assert listener.last_id != before


def test_a_slow_client_is_told_and_resumes_without_a_gap(start: Start) -> None:
    gateway = start(stream_queue=50)
    address = urlsplit(gateway.url)
    total = 3_000
    with socket.create_connection((address.hostname or "", address.port or 0)) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        raw.sendall(b"GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        raw.settimeout(10)
        head = raw.recv(2_000)
        assert b"200 OK" in head
        for first in range(0, total, 100):
            numbers = range(first, first + 100)
            gateway.bus.publish([outgoing(clean(made(n), body="long " * 200)) for n in numbers])
            gateway.bus.publish([outgoing(made(n)) for n in numbers])
        time.sleep(0.5)
        received = head
        while more := raw.recv(65_536):
            received += more
    blocks = _dechunked(received.split(b"\r\n\r\n", 1)[1]).split("\n\n")
    events = [block for block in blocks if "event: prediction" in block]
    assert any("event: slow" in block for block in blocks)
    assert len(events) < total
    last_id = events[-1].split("id: ")[1].split("\n")[0] if events else blocks[0].split("id: ")[1].split("\n")[0]
    seen = [json.loads(block.split("data: ")[1])["prediction_id"] for block in events]
    while len(seen) < total:  # a history longer than the queue may be cut off again, each time further on
        with listening(gateway, last_id) as listener:
            for event in listener:
                if event.name == "prediction":
                    seen.append(event.data["prediction_id"])
                    last_id = event.event_id or last_id
                if len(seen) == total or event.name == "slow":
                    break
    assert len(set(seen)) == len(seen) == total


def _dechunked(body: bytes) -> str:
    data = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        data += body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]
    return data.decode()


def test_streams_that_are_left_are_forgotten_and_more_than_allowed_are_refused(start: Start) -> None:
    gateway = start(streams=2)
    before = REGISTRY.get_sample_value("tickerloop_streams") or 0
    with listening(gateway), listening(gateway):
        answer = gateway.client.get("/v1/stream")
        problem(answer, 503)
        assert int(answer.headers["retry-after"]) >= 1
        assert REGISTRY.get_sample_value("tickerloop_streams") == before + 2
    deadline = time.monotonic() + 5
    while REGISTRY.get_sample_value("tickerloop_streams") != before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert REGISTRY.get_sample_value("tickerloop_streams") == before


def test_stopping_ends_streams_at_once(start: Start) -> None:
    gateway = start()
    with listening(gateway) as listener:
        gateway.context.stop.set()
        began = time.monotonic()
        assert list(listener) == []
        assert time.monotonic() - began < 3


def test_a_signal_ends_the_process_with_streams_open(database: str, valkey_url: str) -> None:
    port = free_port()
    settings = Settings(database=database, redis=valkey_url, port=port)
    with closing(settings.open_bus("setup")) as bus:
        bus.create_topics()
    program = (
        "import sys; from services.gateway.service import serve; from services.runtime import run;"
        "from services.settings import from_environment; sys.exit(run(serve, from_environment(), 'gateway'))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], env=os.environ | settings.environment())
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with suppress(httpx.HTTPError):
                if httpx.get(f"{url}/healthz").is_success:
                    break
            time.sleep(0.05)
        with httpx.stream("GET", f"{url}/v1/stream", timeout=10) as response:
            listener = Listener(response)
            listener.take(1, "hello")
            process.send_signal(signal.SIGTERM)
            assert list(listener) == []
        assert process.wait(timeout=10) == 0
    finally:
        process.kill()
        process.wait()


class Halting:
    """A log whose reader now and then has nothing ready, as a Kafka broker does."""

    place = TopicPartition(topics.PREDICTIONS, 0)

    def __init__(self, answers: Sequence[Sequence[int]], ends: int) -> None:
        self._answers, self._ends, self._at = list(answers), ends, 0

    def begins(self, topic: str) -> dict[TopicPartition, int]:
        return {self.place: 0} if topic == topics.PREDICTIONS else {}

    def reader(self, *_: object) -> Halting:
        return self

    def poll(self, *_: object) -> list[Record]:
        offsets = self._answers.pop(0) if self._answers else []
        self._at = self._ends if not self._answers else max((self._at, *(n + 1 for n in offsets)))
        return [Record(*self.place, n, 0, b"k", outgoing(made(n)).value) for n in offsets]

    def positions(self) -> dict[TopicPartition, int]:
        return {self.place: self._at}

    def close(self) -> None:
        return


def away() -> Any:
    raise Transient("away")


def test_an_empty_look_is_not_the_end_of_a_history() -> None:
    log = Halting([[], [0, 1], [], [], [2], []], ends=5)  # offsets 3 and 4 are ends of transactions
    history = History(lambda: log, away, {log.place: 0}, {log.place: 5})  # type: ignore[arg-type,return-value]
    found: list[Frame] = []
    while (frames := history.read()) is not None:
        found += frames
    assert [frame.event_id for frame in found] == ["0:1", "0:2", "0:3"]


def test_a_history_that_gives_nothing_ends_so_that_the_client_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.stream.STALLED_S", 0.0)
    log = Halting([[]] * 9, ends=5)
    history = History(lambda: log, away, {log.place: 0}, {log.place: 5})  # type: ignore[arg-type,return-value]
    with pytest.raises(Transient):
        while history.read() is not None:
            time.sleep(0.001)


def test_what_is_offered_as_the_heartbeat_falls_due_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(None, 10)

    async def late(waited: Any, _: float) -> None:
        waited.close()
        client.offer([Frame("0:1", None, b"event")], "0:1")
        raise TimeoutError

    monkeypatch.setattr("services.gateway.tail.asyncio.wait_for", late)
    assert asyncio.run(client.take(1.0)) == b"event"


def test_a_stream_that_has_yet_to_begin_counts(start: Start) -> None:
    gateway = start(streams=1)
    address = urlsplit(gateway.url)
    with socket.create_connection((address.hostname or "", address.port or 0)) as raw:
        # It names a position ahead of the log, and so is held back for a second before it begins.
        raw.sendall(b"GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nLast-Event-ID: 0:99999-m:0\r\n\r\n")
        time.sleep(0.3)
        problem(gateway.client.get("/v1/stream"), 503)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with httpx.stream("GET", f"{gateway.url}/v1/stream", timeout=10) as response:
            if response.status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError("a stream that was left still counts")
