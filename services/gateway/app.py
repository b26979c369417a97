"""The routes put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from litestar import Litestar, Router
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.types import ASGIApp

from services.gateway import (
    access,
    assets,
    erasure,
    health,
    judgements,
    lineage,
    models,
    reads,
    review,
    stream,
    texts,
    training,
    trusted,
)
from services.gateway.core import Gateway, SafeRequest
from services.gateway.edge import Edge
from services.gateway.names import answered
from services.gateway.problems import HANDLERS
from services.keys import Role

ROUTES: Final[dict[Role, tuple[HTTPRouteHandler, ...]]] = {
    "source": (texts.post_texts,),
    "reader": (
        texts.post_score,
        texts.post_explain,
        reads.get_predictions,
        reads.get_prediction,
        reads.get_ticker,
        reads.get_windows,
        models.get_models,
        models.get_model,
        models.get_ledger,
        training.get_training,
        training.get_runs,
        training.get_curve,
        models.get_standing,
        health.get_status,
        health.get_metrics,
        stream.stream,
        access.get_key,
    ),
    "annotator": (
        judgements.post_feedback,
        judgements.delete_feedback,
        review.post_leases,
        review.delete_lease,
        lineage.get_lineage,
    ),
    "operator": (
        judgements.post_outcome,
        judgements.get_feedback,
        trusted.get_annotators,
        trusted.get_quarantine,
        trusted.release,
        trusted.refuse,
        models.promote,
        models.rollback,
        models.shadow,
        models.unshadow,
        models.approve,
        models.reject,
        models.pin,
        models.unpin,
        erasure.delete_text,
        erasure.delete_annotator,
    ),
}
"""What each role may do, beside what `services.keys.GRANTS` gives it of the others."""
OPEN: Final = (*assets.routes(), health.get_health, health.get_ready)
"""What needs no key."""
KEY: Final = [{access.SCHEME: list[str]()}]


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
            *(Router("/", route_handlers=routes, opt={"role": role}, security=KEY) for role, routes in ROUTES.items()),
            Router("/", route_handlers=OPEN, opt={"role": access.ANYONE}),
        ],
        guards=[access.admit],
        request_class=SafeRequest,
        request_max_body_size=gateway.limits.body_bytes,
        exception_handlers=HANDLERS,
        lifespan=[lifespan],
        logging_config=None,
        openapi_config=OpenAPIConfig(
            title="tickerloop",
            version="1",
            description="Streaming financial sentiment that learns from the people who read it.",
            openapi_router=Router("/schema", route_handlers=[], opt={"role": "reader"}, include_in_schema=False),
            render_plugins=[JsonRenderPlugin(path="/openapi.json")],
            components=access.COMPONENTS,
        ),
    )
    app.state.gateway = gateway
    return Edge(app, answered(gateway.settings.host, gateway.limits.hosts))
