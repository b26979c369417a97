"""The registry over HTTP: models, ledger and what may change the champion next; every decision that people make."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from typing import Annotated, Any, TypeVar

import msgspec
from litestar import get, post
from litestar.openapi import ResponseSpec
from litestar.params import JSONBody, PathParameter
from msgspec import Meta
from psycopg2.extensions import cursor as Cursor

from services.gateway.access import name_of
from services.gateway.core import Gateway, SafeRequest, gateway_of
from services.gateway.problems import MEDIA_TYPE, SPECS, Problem, ProblemBody, invalid, no_nul
from services.stream.errors import Rejected
from services.stream.events import ModelChange, Name, ShortText
from services.trainer import registry, standing
from services.trainer.comparison import Compared, compared
from services.trainer.promotion import Promoter, Unprepared
from services.trainer.registry import LedgerRow, Version
from services.trainer.standing import Standing

_T = TypeVar("_T")
_Version = Annotated[str, PathParameter(max_length=200)]
_Epoch = Annotated[int, Meta(ge=0, le=2**53)]
_REFUSED = (
    "The champion, its shadow or the challenger isn't as expected (conflict), or a live scorer can't serve the model"
    " (unprepared)"
)
_CHANGES = {**SPECS, 409: ResponseSpec(ProblemBody, description=_REFUSED, media_type=MEDIA_TYPE)}


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Who decides and why. `actor` is the key's name, and may be left out; without keys it is needed.
    `expected_epoch` is the champion's epoch that the decision was made on (0: none yet)."""

    actor: Name | None = None
    reason: Annotated[ShortText, Meta(min_length=1)]
    expected_epoch: _Epoch


class Promotion(Decision, frozen=True, kw_only=True):
    """A promotion; `evidence` goes into the ledger as it is."""

    evidence: dict[str, Any] = {}


@get("/v1/models", responses=SPECS, tags=["models"])
async def get_models(request: SafeRequest) -> list[Version]:
    """Every registered model, newest first; which is the champion, and which shadows it."""
    return await gateway_of(request).pool.run(registry.versions)


@get("/v1/models/{version:str}", responses=SPECS, tags=["models"])
async def get_model(request: SafeRequest, version: _Version) -> Compared:
    """One model, its card, and how it compares with the champion that it shadows or shadowed, if it ever did."""

    def find(cursor: Cursor) -> Compared:
        return compared(cursor, registry.registered(cursor, version))

    try:
        return await gateway_of(request).pool.run(find)
    except Rejected:
        raise Problem(404, "not-found", f"there is no model {version}") from None


@get("/v1/ledger", responses=SPECS, tags=["models"])
async def get_ledger(request: SafeRequest) -> list[LedgerRow]:
    """Every decision, oldest first; each row carries the hash of the row before."""
    return await gateway_of(request).pool.run(registry.ledger)


@get("/v1/standing", responses=SPECS, tags=["models"])
async def get_standing(request: SafeRequest) -> Standing:
    """The challenger under way with its evidence, a pin, a cool-down, and the champion against the one before."""
    gateway = gateway_of(request)
    return await gateway.pool.run(lambda cursor: standing.now(cursor, gateway.settings.cooldown_s))


@post("/v1/models/{version:str}/promote", status_code=200, responses=_CHANGES, tags=["models"])
async def promote(request: SafeRequest, version: _Version, data: JSONBody[Promotion]) -> ModelChange:
    """Make a model the champion, once every live scorer is ready for it; they swap to it between two batches."""
    actor = _actor(request, data, version)
    return await _change(
        gateway_of(request),
        lambda promoter: promoter.promote(
            version,
            actor=actor,
            reason=data.reason,
            evidence=data.evidence,
            expected_epoch=data.expected_epoch,
        ),
    )


@post("/v1/models/rollback", status_code=200, responses=_CHANGES, tags=["models"])
async def rollback(request: SafeRequest, data: JSONBody[Decision]) -> ModelChange:
    """Go back to the champion before this one."""
    actor = _actor(request, data)
    return await _change(
        gateway_of(request),
        lambda promoter: promoter.rollback(actor=actor, reason=data.reason, expected_epoch=data.expected_epoch),
    )


@post("/v1/models/{version:str}/shadow", status_code=200, responses=_CHANGES, tags=["models"])
async def shadow(request: SafeRequest, version: _Version, data: JSONBody[Decision]) -> ModelChange:
    """Have a model score a sample of the stream beside the champion, until `unshadow` or the champion's next change."""
    actor = _actor(request, data, version)
    return await _change(
        gateway_of(request),
        lambda promoter: promoter.shadow(version, actor=actor, reason=data.reason, expected_epoch=data.expected_epoch),
    )


@post("/v1/models/unshadow", status_code=200, responses=_CHANGES, tags=["models"])
async def unshadow(request: SafeRequest, data: JSONBody[Decision]) -> ModelChange:
    """End the shadow; what it said is kept."""
    actor = _actor(request, data)
    return await _change(
        gateway_of(request),
        lambda promoter: promoter.unshadow(actor=actor, reason=data.reason, expected_epoch=data.expected_epoch),
    )


@post("/v1/models/{version:str}/approve", status_code=200, responses=_CHANGES, tags=["models"])
async def approve(request: SafeRequest, version: _Version, data: JSONBody[Decision]) -> ModelChange:
    """Promote the challenger that awaits approval."""
    actor = _actor(request, data, version)
    return await _change(
        gateway_of(request),
        lambda promoter: promoter.approve(version, actor=actor, reason=data.reason, expected_epoch=data.expected_epoch),
    )


@post("/v1/models/{version:str}/reject", status_code=200, responses=_CHANGES, tags=["models"])
async def reject(request: SafeRequest, version: _Version, data: JSONBody[Decision]) -> ModelChange:
    """Give up a challenger that passed the gate, wherever it stands."""
    actor = _actor(request, data, version)
    return await _change(
        gateway_of(request),
        lambda promoter: promoter.reject(version, actor=actor, reason=data.reason, expected_epoch=data.expected_epoch),
    )


@post("/v1/models/pin", status_code=200, responses=_CHANGES, tags=["models"])
async def pin(request: SafeRequest, data: JSONBody[Decision]) -> LedgerRow:
    """Keep the champion: neither the gate nor the watch changes it until `unpin`; people may."""
    actor = _actor(request, data)
    return await _change(
        gateway_of(request),
        lambda promoter: promoter.pin(actor=actor, reason=data.reason, expected_epoch=data.expected_epoch),
    )


@post("/v1/models/unpin", status_code=200, responses=_CHANGES, tags=["models"])
async def unpin(request: SafeRequest, data: JSONBody[Decision]) -> LedgerRow:
    """Let the gate and the watch change the champion again."""
    actor = _actor(request, data)
    return await _change(
        gateway_of(request),
        lambda promoter: promoter.unpin(actor=actor, reason=data.reason, expected_epoch=data.expected_epoch),
    )


def _actor(request: SafeRequest, data: Decision, version: str | None = None) -> str:
    """Who decides, once the request can be taken; see `name_of`."""
    no_nul(version=version, actor=data.actor, reason=data.reason)
    try:
        return standing.person(name_of(request, "actor", data.actor))
    except Rejected as reserved:
        raise invalid("actor", reserved.detail) from None


async def _change(gateway: Gateway, change: Callable[[Promoter], _T]) -> _T:
    def run() -> _T:
        # Not the process's own bus: what publishes under that name is the acceptor.
        with closing(gateway.settings.open_bus("gateway.models")) as bus:
            context = gateway.context
            return change(Promoter(bus, context.connect, gateway.settings.prepare_s, context.stop))

    try:
        async with gateway.changing:
            return await asyncio.to_thread(run)
    except (registry.Conflict, Unprepared) as refused:
        raise Problem(409, refused.reason, refused.detail) from None
    except Rejected as rejected:
        if rejected.reason == "unknown":
            raise Problem(404, "not-found", rejected.detail) from None
        raise
