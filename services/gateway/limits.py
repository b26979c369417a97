"""How much one client may send, under which names, and the token bucket that counts it."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

import msgspec
import redis
import redis.asyncio
from redis.asyncio.connection import BlockingConnectionPool

from services.stream.errors import Misconfigured

PREFIX: Final = "TICKERLOOP_GATEWAY_"
MAX_LOCAL_CLIENTS: Final = 10_000
LOCAL_FOR_S: Final = 5.0
"""How long the local buckets serve after Valkey failed, before it is asked again."""

_TAKE: Final = """
local rate, burst, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1e6
local held = redis.call('HMGET', KEYS[1], 'n', 'at')
local n = tonumber(held[1]) or burst
n = math.min(burst, n + math.max(0, now - (tonumber(held[2]) or now)) * rate)
local wait = 0
if n >= cost then n = n - cost else wait = (cost - n) / rate end
redis.call('HSET', KEYS[1], 'n', tostring(n), 'at', string.format('%.6f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil(burst / rate * 1000) + 1000)
return tostring(wait)
"""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Read from `TICKERLOOP_GATEWAY_<NAME>`; the defaults let one machine's own tools through and stop a runaway."""

    body_bytes: int = 8_000_000
    """Largest body of a request."""
    batch_items: int = 10_000
    """Most texts in one request."""
    rate: float = 5_000.0
    """Requests and texts a second, per client address."""
    burst: float = 50_000.0
    """How many of them at once, after a pause."""
    queue_events: int = 50_000
    """Texts that wait for the log before 429."""
    queue_bytes: int = 64_000_000
    """Bytes of such texts before 429."""
    streams: int = 1_000
    """Live streams open at once."""
    stream_queue: int = 2_000
    """Events that wait for one slow stream before it is closed."""
    hosts: str = ""
    """Names, separated by commas, under which requests are answered; when empty, loopback's names on a loopback
    address and any name elsewhere. Name them wherever a browser can reach another address than loopback. Others than
    loopback's need an API key, as another address does."""
    heartbeat_s: float = 15.0
    """Longest silence on a live stream, in seconds; proxies cut silent connections."""


def limits_from(environment: Mapping[str, str] = os.environ) -> Limits:
    """The limits.

    Raises:
        Misconfigured: a value is not a number; the message names it.
    """
    names = (field.name for field in msgspec.structs.fields(Limits))
    given = {name: environment[key] for name in names if (key := PREFIX + name.upper()) in environment}
    try:
        return msgspec.convert(given, Limits, strict=False)
    except msgspec.ValidationError as error:
        raise Misconfigured(f"a {PREFIX} variable has a bad value: {error}") from None


class Limiter:
    """Token buckets in Valkey, shared by all gateways; in this process while Valkey is away."""

    def __init__(self, limits: Limits, url: str) -> None:
        self._rate, self._burst = limits.rate, limits.burst
        self._client: redis.asyncio.Redis | None = None
        if url:
            pool = BlockingConnectionPool.from_url(
                url, max_connections=16, timeout=0.25, socket_timeout=0.25, socket_connect_timeout=0.25
            )
            self._client = redis.asyncio.Redis(connection_pool=pool)
            self._script = self._client.register_script(_TAKE)
        self._local: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._away_until = 0.0

    async def take(self, client: str, cost: int) -> float:
        """Take `cost` tokens of `client`; 0.0 when granted, else the seconds to wait, and none were taken."""
        wanted = min(float(cost), self._burst)
        if self._client is not None and time.monotonic() >= self._away_until:
            try:
                return float(await self._script(keys=[f"rate:{client}"], args=[self._rate, self._burst, wanted]))
            except (redis.exceptions.RedisError, OSError):
                self._away_until = time.monotonic() + LOCAL_FOR_S
        return self._take_local(client, wanted)

    def _take_local(self, client: str, cost: float) -> float:
        now = time.monotonic()
        held, at = self._local.pop(client, (self._burst, now))
        held = min(self._burst, held + (now - at) * self._rate)
        granted = held >= cost
        self._local[client] = (held - cost if granted else held, now)
        if len(self._local) > MAX_LOCAL_CLIENTS:
            self._local.popitem(last=False)
        return 0.0 if granted else (cost - held) / self._rate

    async def close(self) -> None:
        """Free the connections."""
        if self._client is not None:
            await self._client.aclose()
