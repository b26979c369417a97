"""What every route needs: one object per process, reached through the request."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec
import redis
import redis.asyncio
from litestar import Request
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.exceptions import InternalServerException, SerializationException

from services import status
from services.gateway.acceptor import Acceptor
from services.gateway.embeddings import Embeddings
from services.gateway.keyring import Keyring
from services.gateway.limits import Limiter, Limits
from services.gateway.pool import PATIENCE_S, Pool
from services.gateway.problems import Problem, malformed
from services.gateway.recent import Recent
from services.gateway.scorers import Scorers
from services.gateway.tail import Tail
from services.runtime import Context
from services.stream.bus import Bus
from services.stream.errors import Fatal, Transient

HISTORIES: Final = 4
"""Streams that read history at a time, each with connections of its own: a thousand may come back at once."""


class Gateway:
    """Built inside the event loop; `start` and `stop` frame its life."""

    def __init__(self, context: Context, limits: Limits, acceptor_bus: Bus, keyring: Keyring) -> None:
        self.context, self.settings, self.limits = context, context.settings, limits
        self.connect = context.connect
        self.keyring = keyring
        self.pool = Pool(context.connect)
        self.acceptor = Acceptor(acceptor_bus, limits, self.fail)
        self.tail = Tail(context.bus, context.connect, self.fail)
        self.limiter = Limiter(limits, self.settings.redis)
        self.scorers = Scorers(self.pool)
        self.embeddings = Embeddings(self.scorers)
        self.status = Recent(self._collected)
        self.catching_up = asyncio.Semaphore(HISTORIES)
        self.changing = asyncio.Lock()
        """One change of the champion at a time: each holds a thread while the scorers prepare."""
        self.erasing = asyncio.Lock()
        """One erasure at a time: each reads the topics that carry texts through."""
        self.cache: redis.asyncio.Redis | None = None
        if self.settings.redis:
            self.cache = redis.asyncio.Redis.from_url(
                self.settings.redis, socket_timeout=0.5, socket_connect_timeout=0.5
            )
        self.failure: Fatal | None = None
        self.stopping = False

    async def _collected(self) -> status.Status:
        try:
            return await asyncio.wait_for(asyncio.to_thread(status.collect, self.settings), PATIENCE_S)
        except TimeoutError:
            raise Transient(f"the log or the database does not answer within {PATIENCE_S:.0f} s") from None

    def open_bus(self) -> Bus:
        """A bus for the calling thread alone."""
        return self.context.bus()

    def fail(self, error: Fatal) -> None:
        """End this process: the server stops at its next tick and `serve` raises."""
        self.failure = self.failure or error

    def start(self) -> None:
        """Start the threads."""
        self.acceptor.start()
        self.tail.start()
        loop = asyncio.get_running_loop()
        self.keyring.start(self.fail, lambda: loop.call_soon_threadsafe(self.tail.end_unless, self.keyring.holds))

    async def stop(self) -> None:
        """End the threads, after what was accepted is published, and free every connection."""
        await asyncio.to_thread(self.keyring.stop)
        await self.tail.stop()
        await asyncio.to_thread(self.acceptor.stop)
        await asyncio.to_thread(self.pool.close)
        await self.scorers.close()
        await self.limiter.close()
        if self.cache is not None:
            await self.cache.aclose()


class SafeRequest(Request[Any, Any, State]):
    """A request whose body can't make the parser fail in a way that isn't the client's 400."""

    async def body(self) -> bytes:
        """The whole body.

        Raises:
            Problem: 400, the client hung up before its end; nobody will read that.
        """
        try:
            return await super().body()
        except InternalServerException:
            raise malformed("the body ends too early") from None

    async def json(self) -> Any:
        """The body.

        Raises:
            Problem: 400, not UTF-8, not JSON or nested too deeply.
        """
        try:
            return await super().json()
        except (SerializationException, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise malformed(f"not JSON in UTF-8: {error.__cause__ or error}") from None


def gateway_of(connection: ASGIConnection[Any, Any, Any, State]) -> Gateway:
    """The process's gateway."""
    gateway: Gateway = connection.app.state.gateway
    return gateway


async def charge(connection: ASGIConnection[Any, Any, Any, State], cost: int) -> None:
    """Count `cost` against the client's allowance.

    Raises:
        Problem: 429, with the time to wait.
    """
    client = connection.client.host if connection.client else "unknown"
    wait = await gateway_of(connection).limiter.take(client, cost)
    if wait > 0:
        raise Problem(429, "rate-limited", "this client sends more than it may", retry_after=wait)
