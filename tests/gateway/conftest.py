"""A real gateway on a free port, over the embedded bus and Valkey; a stand-in for the score worker."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from gateway_kit import Running, Start

from services.settings import Settings


@pytest.fixture
def start(database: str, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts gateways; keywords are limits."""
    running: list[Running] = []

    def begin(**limits: object) -> Running:
        for name, value in limits.items():
            monkeypatch.setenv(f"TICKERLOOP_GATEWAY_{name.upper()}", str(value))
        settings = Settings(database=database, redis=valkey_url, port=0)
        with contextlib.closing(settings.open_bus("setup")) as bus:
            bus.create_topics()
        running.append(Running(settings).start())
        return running[-1]

    yield begin
    for gateway in running:
        gateway.stop()
        assert gateway.error is None


@pytest.fixture
def gateway(start: Start) -> Running:
    return start()


@pytest.fixture
def scorer() -> Iterator[ThreadingHTTPServer]:
    """Answers POST /score as the worker does; its `answers` may be changed to (status, body)."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["texts"]
            score = {"label": "neutral", "probabilities": [0.1, 0.8, 0.1], "truncated": False}
            body = json.dumps({"model": "base-1", "epoch": 1, "scores": [score for _ in texts]}).encode()
            status, body = getattr(self.server, "answer", None) or (200, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
