"""GET /v1/predictions/{prediction_id}/lineage."""

from __future__ import annotations

from typing import Annotated, Final

import numpy as np
from litestar import get
from litestar.params import PathParameter

from services.gateway.core import Gateway, SafeRequest, charge, gateway_of
from services.gateway.gone import unless_gone
from services.gateway.problems import SPECS, Problem, no_nul
from services.lineage import trace
from services.lineage.trace import Asked, Lineage, Seen
from services.score.wire import MAX_TEXTS
from services.stream.errors import Rejected

COST: Final = 256
"""What it takes of a client's allowance: up to a thousand texts are embedded."""


@get("/v1/predictions/{prediction_id:str}/lineage", responses=SPECS, tags=["predictions"])
async def get_lineage(request: SafeRequest, prediction_id: Annotated[str, PathParameter(max_length=200)]) -> Lineage:
    """Which feedback changed this prediction: the corrections that its model learned from, those nearest to its text
    first, and what the model before said of it. Near by the features of the model in service; `notes` says what can't
    be told."""
    no_nul(prediction_id=prediction_id)
    await charge(request, COST - 1)
    gateway = gateway_of(request)
    try:
        asked = await gateway.pool.run(lambda cursor: trace.ask(cursor, prediction_id))
    except Rejected as rejected:
        raise Problem(404, "not-found", rejected.detail) from None
    return await unless_gone(request.receive, _told(gateway, asked))


async def _told(gateway: Gateway, asked: Asked) -> Lineage:
    seen = await _seen(gateway, asked.texts)
    cache = gateway.settings.model_cache
    before = await gateway.pool.run(lambda cursor: trace.parents_answer(cursor, asked, seen, cache))
    return trace.told(asked, seen, before)


async def _seen(gateway: Gateway, texts: list[str]) -> Seen | str:
    """By the model in service; a string says why it sees nothing."""
    if not texts:
        return trace.ERASED
    try:
        parts = [await gateway.scorers.features(texts[at : at + MAX_TEXTS]) for at in range(0, len(texts), MAX_TEXTS)]
    except Problem as problem:
        return f"what it is near to can't be told now: {problem.body.detail}"
    if len({part.key for part in parts}) > 1:
        return "what it is near to can't be told now: the model was changed meanwhile; ask again"
    rows = [np.frombuffer(part.rows, "<f4").reshape(-1, part.width) for part in parts]
    return Seen(parts[0].key, np.concatenate(rows))
