"""GET /v1/status, /healthz, /readyz and /metrics: for people, for probes, for Prometheus."""

from __future__ import annotations

import asyncio
import os

import redis
from litestar import Response, get
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from psycopg2.extensions import cursor as Cursor

from services import status
from services.gateway.core import Gateway, SafeRequest, gateway_of
from services.gateway.problems import SPECS, FieldError, Problem
from services.stream.errors import Transient


@get("/v1/status", responses=SPECS, tags=["operations"])
async def get_status(request: SafeRequest) -> status.Status:
    """What the whole loop is doing now: lag, the account of every text, the model, each service."""
    return await gateway_of(request).status.get()


@get("/healthz", tags=["operations"])
async def get_health() -> dict[str, str]:
    """This process answers."""
    return {"status": "up"}


@get("/readyz", responses={503: SPECS[503]}, tags=["operations"])
async def get_ready(request: SafeRequest) -> dict[str, str]:
    """The database, the cache and a score worker answer; else 503 that names what doesn't."""
    gateway = gateway_of(request)
    database, cache = await asyncio.gather(_database(gateway), _cache(gateway))
    missing = [FieldError(name, problem, "server") for name, problem in (*database, *cache)]
    if missing:
        detail = "; ".join(f"{entry.field}: {entry.detail}" for entry in missing)
        raise Problem(503, "not-ready", detail, errors=missing, retry_after=1)
    return {"status": "ready"}


async def _database(gateway: Gateway) -> list[tuple[str, str]]:
    try:
        await gateway.pool.run(_answers)
        if not await gateway.scorers.alive():
            return [("score", "no live score worker")]
    except Transient:
        return [("database", "does not answer")]
    return []


def _answers(cursor: Cursor) -> None:
    cursor.execute("SELECT 1")


async def _cache(gateway: Gateway) -> list[tuple[str, str]]:
    if gateway.cache is None:
        return []
    try:
        await gateway.cache.ping()
    except (redis.exceptions.RedisError, OSError):
        return [("valkey", "does not answer")]
    return []


@get("/metrics", include_in_schema=False)
async def get_metrics() -> Response[bytes]:
    """Prometheus text: of all processes where they share a folder, else of this one."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
