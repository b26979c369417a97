"""Annotators' trust and the quarantine over HTTP."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from litestar import get, post
from litestar.params import JSONBody, PathParameter, QueryParameter

from services.feedback import assess
from services.feedback.assess import Decision, Quarantined
from services.feedback.trust import Annotator
from services.gateway.access import name_of
from services.gateway.core import SafeRequest, gateway_of
from services.gateway.problems import SPECS, Problem, no_nul
from services.runtime import now_ms
from services.stream.errors import Rejected
from services.stream.events import Name

_Finding = Annotated[int, PathParameter(ge=0, le=2**53)]
_State = Annotated[Decision | None, QueryParameter(name="state")]


class Decided(msgspec.Struct, frozen=True):
    """`actor` is the key's name, and may be left out; without keys it is needed."""

    actor: Name | None = None


@get("/v1/annotators", responses=SPECS, tags=["feedback"])
async def get_annotators(request: SafeRequest) -> list[Annotator]:
    """Whom to believe: each annotator's state, measured reliability with its bounds, and weight."""
    return await gateway_of(request).pool.run(assess.people)


@get("/v1/quarantine", responses=SPECS, tags=["feedback"])
async def get_quarantine(request: SafeRequest, decision: _State = None) -> list[Quarantined]:
    """Words that were set aside, and why; `state=held` gives those that wait for a decision."""
    found = await gateway_of(request).pool.run(assess.shown)
    return [row for row in found if decision in (None, row.state)]


@post("/v1/quarantine/{finding:int}/release", status_code=200, responses=SPECS, tags=["feedback"])
async def release(request: SafeRequest, finding: _Finding, data: JSONBody[Decided]) -> Quarantined:
    """Let these words count, and not be held for this reason again."""
    return await _decide(request, finding, "released", data)


@post("/v1/quarantine/{finding:int}/refuse", status_code=200, responses=SPECS, tags=["feedback"])
async def refuse(request: SafeRequest, finding: _Finding, data: JSONBody[Decided]) -> Quarantined:
    """Keep these words from counting for good."""
    return await _decide(request, finding, "refused", data)


async def _decide(
    request: SafeRequest, finding: int, state: Literal["released", "refused"], data: Decided
) -> Quarantined:
    no_nul(actor=data.actor)
    actor = name_of(request, "actor", data.actor)
    try:
        return await gateway_of(request).pool.run(lambda cursor: assess.decide(cursor, finding, state, actor, now_ms()))
    except Rejected as rejected:
        raise Problem(404, "not-found", rejected.detail) from None
