"""The gateway's life as a service."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Final

import uvicorn

from services.gateway.app import build
from services.gateway.core import Gateway
from services.gateway.keyring import Keyring
from services.gateway.limits import limits_from
from services.gateway.names import check_reach, local
from services.runtime import Context, address, listen
from services.stream.errors import Misconfigured

GRACE_S: Final = 10
"""How long requests in hand may take after a stop."""
KEEP_ALIVE_S: Final = 30
BACKLOG: Final = 2048
"""Connections that wait to be accepted, so that a burst of single posts isn't turned away."""


def serve(context: Context) -> None:
    """Serve until stopped; requests in hand are finished, streams are ended so that their clients go on elsewhere.

    Raises:
        Misconfigured: the port is taken, a limit is not a number, or others could reach the gateway without a key.
        Fatal: a thread of ours can't go on.
        Transient: the log or the database is away at the start.
    """
    limits = limits_from(os.environ)
    host = context.settings.host
    keyring = Keyring(context.connect, local(host, limits.hosts))
    check_reach(host, limits.hosts, keyring.read())
    listening = _listen(context)
    bus = context.bus()
    gateway = Gateway(context, limits, bus, keyring)
    config = uvicorn.Config(
        build(gateway),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        proxy_headers=False,
        ws="none",
    )
    context.address = address(host, listening.getsockname()[1])
    context.state = "running"
    with contextlib.closing(listening):
        _Server(config, gateway).run([listening])
    if gateway.failure is not None:
        raise gateway.failure


def _listen(context: Context) -> socket.socket:
    host, port = context.settings.host, context.settings.port
    try:
        listening = listen(host, port)
    except OSError as error:
        raise Misconfigured(f"the gateway can't listen on {host}:{port}: {error.strerror}; choose --port") from None
    listening.listen(BACKLOG)
    return listening


class _Server(uvicorn.Server):
    """Stops with the service's context; signals are the context's business."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them to `services.runtime`."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if self._gateway.context.stop.is_set() or self._gateway.failure is not None:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams first: they would use up the grace."""
        self._gateway.stopping = True
        self._gateway.tail.end()
        await super().shutdown(sockets)
