"""GET /v1/training: why the trainer trains, or doesn't."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import get
from litestar.params import QueryParameter
from psycopg2.extensions import cursor as Cursor

from services.gateway.core import SafeRequest, gateway_of
from services.gateway.problems import SPECS
from services.trainer import evaluations
from services.trainer.evaluations import Evaluation


class Training(msgspec.Struct, frozen=True):
    """The last looks at the triggers, newest first: each that came to another answer, and one every few minutes."""

    evaluations: list[Evaluation]


@get("/v1/training", responses=SPECS, tags=["models"])
async def get_training(request: SafeRequest, limit: Annotated[int, QueryParameter(ge=1, le=1_000)] = 10) -> Training:
    """Why the trainer trains, or why not, with the numbers."""

    def find(cursor: Cursor) -> Training:
        return Training(evaluations.latest(cursor, limit))

    return await gateway_of(request).pool.run(find)
