"""The routes put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from litestar import Litestar, Router
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.types import ASGIApp

from services.gateway import assets, health, judgements, models, reads, stream, texts
from services.gateway.core import Gateway, SafeRequest, limited
from services.gateway.edge import Edge, answered
from services.gateway.problems import HANDLERS

API: Final = (
    texts.post_texts,
    texts.post_score,
    texts.post_explain,
    reads.get_predictions,
    reads.get_prediction,
    reads.get_ticker,
    reads.get_windows,
    reads.get_review,
    judgements.post_feedback,
    models.get_models,
    models.get_model,
    models.get_ledger,
    models.promote,
    models.rollback,
    models.shadow,
    models.unshadow,
    health.get_status,
    stream.stream,
)


def build(gateway: Gateway) -> ASGIApp:
    """The application; its lifespan starts and stops the gateway's threads."""

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        gateway.start()
        try:
            yield
        finally:
            await gateway.stop()

    app = Litestar(
        [
            Router("/", route_handlers=API, guards=[limited]),
            *assets.routes(),
            health.get_health,
            health.get_ready,
            health.get_metrics,
        ],
        request_class=SafeRequest,
        request_max_body_size=gateway.limits.body_bytes,
        exception_handlers=HANDLERS,
        lifespan=[lifespan],
        logging_config=None,
        openapi_config=OpenAPIConfig(
            title="tickerloop",
            version="1",
            description="Streaming financial sentiment that learns from the people who read it.",
            path="/schema",
            render_plugins=[JsonRenderPlugin(path="/openapi.json")],
        ),
    )
    app.state.gateway = gateway
    return Edge(app, answered(gateway.settings.host, gateway.limits.hosts))
