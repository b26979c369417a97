"""Why the trainer trains, or doesn't, what came of its runs, and the curve that they make."""

from __future__ import annotations

from asyncio import to_thread
from typing import Annotated, Final

import msgspec
from litestar import Response, get
from litestar.params import QueryParameter
from psycopg2.extensions import cursor as Cursor

from services.gateway.core import SafeRequest, gateway_of
from services.gateway.problems import SPECS
from services.trainer import evaluations, history
from services.trainer.evaluations import Evaluation
from services.trainer.history import Run

CURVE_RUNS: Final = 200
"""The newest so many make the curve."""


class Training(msgspec.Struct, frozen=True):
    """The last looks at the triggers, newest first: each that came to another answer, and one every few minutes."""

    evaluations: list[Evaluation]


@get("/v1/training", responses=SPECS, tags=["models"])
async def get_training(request: SafeRequest, limit: Annotated[int, QueryParameter(ge=1, le=1_000)] = 10) -> Training:
    """Why the trainer trains, or why not, with the numbers."""

    def find(cursor: Cursor) -> Training:
        return Training(evaluations.latest(cursor, limit))

    return await gateway_of(request).pool.run(find)


@get("/v1/training/runs", responses=SPECS, tags=["models"])
async def get_runs(request: SafeRequest, limit: Annotated[int, QueryParameter(ge=1, le=1_000)] = 50) -> list[Run]:
    """What came of each training run, newest first."""
    return await gateway_of(request).pool.run(lambda cursor: history.runs(cursor, limit))


@get("/v1/training/curve.svg", responses=SPECS, tags=["models"], media_type="image/svg+xml")
async def get_curve(request: SafeRequest) -> Response[str]:
    """The learning curve: accuracy on held-out texts by the labels that people had given, run by run."""
    found = await gateway_of(request).pool.run(lambda cursor: history.runs(cursor, CURVE_RUNS))
    return Response(await to_thread(history.curve, found), media_type="image/svg+xml")
