"""Who may do what: every route names the role that it takes, and one guard stands before them all."""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec
from litestar import Request, get
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.handlers import BaseRouteHandler
from litestar.openapi.spec import Components, SecurityScheme

from services.gateway.core import SafeRequest, charge, gateway_of
from services.gateway.problems import SPECS, Problem, invalid
from services.keys import Key, Role
from services.stream.events import Standing

ANYONE: Final = "anyone"
"""The role of routes that need no key: the page's files, which hold nothing, and the probes."""
WRONG_KEYS: Final = 10
"""How many of them use up a client's allowance after a pause; with the allowance's defaults then one a second."""

SCHEME: Final = "key"
COMPONENTS: Final = Components(
    security_schemes={
        SCHEME: SecurityScheme(
            type="http",
            scheme="bearer",
            bearer_format="tl_<id>_<secret>",
            description="An API key, made by `tickerloop keys create`. While there is none, a gateway on loopback needs"
            " none.",
        )
    }
)


class Speaker(msgspec.Struct, frozen=True):
    """Whom the gateway takes the client for; without a key it has no name, and may do everything."""

    name: str | None
    role: Role
    expires: int | None


async def admit(connection: ASGIConnection[Any, Any, Any, State], handler: BaseRouteHandler) -> None:
    """Guard of every route: counts the request, and lets in who may do what the route's `role` says. A route that names
    none takes an operator.

    Raises:
        Problem: 401 no key or a wrong one, 403 the key's role is too low, 429 too much from this client, 503 the keys
            can't be looked up.
    """
    role = handler.opt.get("role", "operator")
    if role == ANYONE:
        return
    await charge(connection, 1)
    keyring = gateway_of(connection).keyring
    connection.scope["user"] = key = await _key(connection) if keyring.needed else None
    if key is not None and not key.may(role):
        raise Problem(403, "forbidden", f"this takes the role {role}; the key {key.id} of {key.name} is a {key.role}'s")


async def _key(connection: ASGIConnection[Any, Any, Any, State]) -> Key:
    given = connection.headers.get("authorization")
    if given is None:
        raise _unauthorised("an API key is needed, in the header `Authorization: Bearer tl_…`", "")
    scheme, _, whole = given.partition(" ")
    gateway = gateway_of(connection)
    key = gateway.keyring.find(whole.strip()) if scheme.lower() == "bearer" else None
    if key is None:
        await charge(connection, math.ceil(gateway.limits.burst / WRONG_KEYS))
        raise _unauthorised("this is no API key, or one that no longer holds", ', error="invalid_token"')
    return key


def _unauthorised(detail: str, error: str) -> Problem:
    """RFC 6750, section 3: an error code only where a key was given."""
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": f'Bearer realm="tickerloop"{error}'})


def name_of(request: Request[Any, Any, State], field: str, given: str | None) -> str:
    """Whose words the body holds: the key's name; without keys, what the body's `field` says.

    Raises:
        Problem: 403 it names another than the key, 422 there is neither.
    """
    key: Key | None = request.user
    if key is None:
        if given is None:
            raise invalid(field, "is missing")
        return given
    if given not in (None, key.name):
        raise Problem(403, "not-yours", f"{field}: this key is {key.name}'s; leave {field} out, or say that name")
    return key.name


def standing_of(request: Request[Any, Any, State]) -> Standing:
    """What is believed of the words in the request: by the key's role, or, without keys, as of this machine's
    operator."""
    key: Key | None = request.user
    if key is None:
        return "local"
    return "operator" if key.may("operator") else "annotator"


@get("/v1/key", responses=SPECS, tags=["operations"])
async def get_key(request: SafeRequest) -> Speaker:
    """Whose key this is, and what it may do."""
    key: Key | None = request.user
    return Speaker(None, "operator", None) if key is None else Speaker(key.name, key.role, key.expires)
