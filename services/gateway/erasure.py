"""DELETE /v1/texts/{text_id} and /v1/annotators/{name}: erasure on request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated

from litestar import delete
from litestar.params import PathParameter, QueryParameter

from services.erasure.people import erase_annotator
from services.erasure.request import Erasure, Request
from services.erasure.texts import erase_text
from services.gateway.access import name_of
from services.gateway.core import SafeRequest, gateway_of
from services.gateway.problems import SPECS, Problem, no_nul
from services.settings import Settings
from services.stream.errors import Rejected

_Id = Annotated[str, PathParameter(max_length=200)]
_Actor = Annotated[
    str | None,
    QueryParameter(min_length=1, max_length=200, description="who erases: the key's name; needed without keys"),
]
_Dry = Annotated[bool, QueryParameter(description="only tell what would go")]
_Retrain = Annotated[bool, QueryParameter(description="ask the trainer for a model that never learned from it")]


@delete("/v1/texts/{text_id:str}", status_code=200, responses=SPECS, tags=["erasure"])
async def delete_text(
    request: SafeRequest, text_id: _Id, actor: _Actor = None, dry_run: _Dry = False, retrain: _Retrain = False
) -> Erasure:
    """Erase a text and its copies, and take none of them again. It reads the topics with texts, which may last."""
    no_nul(text_id=text_id, actor=actor)
    how = Request(name_of(request, "actor", actor), dry_run, retrain)
    return await _erased(request, lambda settings: erase_text(settings, text_id, how))


@delete("/v1/annotators/{name:str}", status_code=200, responses=SPECS, tags=["erasure"])
async def delete_annotator(
    request: SafeRequest, name: _Id, actor: _Actor = None, dry_run: _Dry = False, retrain: _Retrain = False
) -> Erasure:
    """Erase who an annotator is: name, keys, comments. The labels stay, nobody's, and teach no more."""
    no_nul(name=name, actor=actor)
    how = Request(name_of(request, "actor", actor), dry_run, retrain)
    return await _erased(request, lambda settings: erase_annotator(settings, name, how))


async def _erased(request: SafeRequest, erase: Callable[[Settings], Erasure]) -> Erasure:
    gateway = gateway_of(request)
    try:
        async with gateway.erasing:
            return await asyncio.to_thread(erase, gateway.settings)
    except Rejected as rejected:
        if rejected.reason == "unknown":
            raise Problem(404, "not-found", rejected.detail) from None
        raise
