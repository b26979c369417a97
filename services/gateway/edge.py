"""Around every request: security headers, refusal of foreign origins and hosts, one log line without bodies."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send
from msgspec import json

from services.gateway.problems import MEDIA_TYPE, Problem
from services.keys import masked
from services.stream import metrics

SECURITY: Final = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self';"
        b" manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
        b" require-trusted-types-for 'script'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
SLOW_S: Final = 1.0

log = logging.getLogger(__name__)


class Edge:
    """ASGI middleware. Requests for a host not in `names` are refused, so that a web page can't reach this server
    under a name of its own (DNS rebinding)."""

    def __init__(self, app: ASGIApp, names: frozenset[str] | None) -> None:
        self._app, self._names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == ScopeType.HTTP:
            await self._guard(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _guard(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        status = 0

        async def guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *SECURITY]
            await send(message)

        try:
            problem = self._refusal(scope["method"], scope["headers"])
            if problem is None:
                await self._app(scope, receive, guarded)
            else:
                await _answer(problem, guarded)
        finally:
            if status >= 400:
                metrics.REFUSED.labels(status=str(status)).inc()
            took = time.monotonic() - started
            slow = took > SLOW_S and scope["path"] != "/v1/stream"
            level = logging.INFO if status >= 400 or slow else logging.DEBUG
            log.log(level, "%s %r %d %.0f ms", scope["method"], masked(scope["path"]), status, took * 1000)

    def _refusal(self, method: str, headers: Iterable[tuple[bytes, bytes]]) -> Problem | None:
        given = {name: value.decode("latin-1") for name, value in headers if name in _LOOKED_AT}
        host = given.get(b"host", "")
        if self._names is not None and _hostname(host) not in self._names:
            return Problem(421, "wrong-host", "this gateway does not answer under that name; TICKERLOOP_GATEWAY_HOSTS")
        if method not in SAFE_METHODS:
            origin = given.get(b"origin")
            foreign = origin is not None and urlsplit(origin).netloc != host
            if foreign or given.get(b"sec-fetch-site") == "cross-site":
                return Problem(403, "foreign-origin", "changes are not taken from pages of another origin")
        return None


_LOOKED_AT: Final = frozenset({b"host", b"origin", b"sec-fetch-site"})


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


async def _answer(problem: Problem, send: Send) -> None:
    headers = [(b"content-type", MEDIA_TYPE.encode()), *((k.encode(), v.encode()) for k, v in problem.headers.items())]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": json.encode(problem.body), "more_body": False})
