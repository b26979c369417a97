"""A host of feeds on the loopback, as well-behaved or as hostile as a test wants."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Request(NamedTuple):
    at: float
    path: str
    headers: Mapping[str, str]


class Reply(NamedTuple):
    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = {}
    drip_s: float = 0.0
    """Seconds between two bytes."""


class Host:
    def __init__(self) -> None:
        self.replies: dict[str, Reply | Callable[[Request], Reply]] = {"/robots.txt": Reply(status=404)}
        self.requests: list[Request] = []
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                request = Request(time.monotonic(), self.path, dict(self.headers))
                host.requests.append(request)
                found = host.replies.get(self.path, Reply(status=404))
                reply = found(request) if callable(found) else found
                self.send_response(reply.status)
                for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    if not reply.drip_s:
                        self.wfile.write(reply.body)
                        return
                    for at in range(len(reply.body)):
                        self.wfile.write(reply.body[at : at + 1])
                        time.sleep(reply.drip_s)
                except OSError:
                    return

            def log_message(self, format: str, *args: object) -> None:
                del format, args

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def asked(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path == path]


@contextmanager
def host() -> Iterator[Host]:
    found = Host()
    thread = threading.Thread(target=found.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()


def rss(*numbers: int | str) -> bytes:
    items = "".join(
        f"<item><title>Title {n}</title><guid isPermaLink='false'>guid-{n}</guid><link>http://example.com/{n}</link>"
        f"<description>Text {n}</description><pubDate>Fri, 05 Jan 2024 10:00:00 +0100</pubDate></item>"
        for n in numbers
    )
    return f"<?xml version='1.0'?><rss version='2.0'><channel><title>Feed</title>{items}</channel></rss>".encode()
