"""A real gateway on a free port, over the embedded bus and Valkey; a stand-in for the score worker."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
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
    """Answers as the worker does; its `answer` may be changed to (status, body)."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            score = {"label": "neutral", "probabilities": [0.1, 0.8, 0.1], "truncated": False}
            found = {
                "/score": lambda: {"scores": [score for _ in asked["texts"]]},
                "/features": lambda: features(asked["texts"]),
                "/explain": lambda: score | explanation(asked["text"], asked["label"]),
            }[self.path]()
            body = json.dumps({"model": "base-1", "epoch": 1, **found}).encode()
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


def features(texts: list[str]) -> dict[str, Any]:
    """How often each digit is in a text, 1, and 100 where it speaks of oil."""
    rows = np.array(
        [[*(text.count(digit) for digit in "0123456789"), 1, 100 * ("oil" in text)] for text in texts], "<f4"
    )
    return {"key": "stub", "width": rows.shape[1], "rows": base64.b64encode(rows.tobytes()).decode()}


def explanation(text: str, label: str | None) -> dict[str, Any]:
    """Every word speaks for the label but for the last, which speaks against it."""
    words = list(re.finditer(r"\S+", text))
    added = [*[0.5] * (len(words) - 1), -1.0]
    return {
        "fp32_label": "neutral",
        "explained": label or "neutral",
        "tokens": [
            {"text": word[0], "start": word.start(), "end": word.end(), "attribution": share}
            for word, share in zip(words, added, strict=True)
        ],
        "value": 1.5,
        "baseline": 0.5,
        "gap": sum(added) - 1.0,
        "relative_gap": sum(added) - 1.0,
    }
