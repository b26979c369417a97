"""Every error as RFC 9457 problem details: `application/problem+json` with type, title, status, detail and fields."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, get_args

from litestar import Request, Response
from litestar.datastructures import State
from litestar.exceptions import HTTPException, ValidationException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.openapi import ResponseSpec
from litestar.types import ExceptionHandlersMap
from msgspec import Struct, field

from services.keys import masked
from services.stream.errors import Fatal, Rejected, Transient
from services.stream.events import LABELS, Flag, SaidKind

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:tickerloop:problem:"
CHOICES: Final = {
    "label": ", ".join(LABELS),
    "kind": ", ".join(get_args(SaidKind)),
    "flag": ", ".join(get_args(Flag)),
}
"""msgspec says only that a value is not one of an enumeration; a person wants to know of which."""

_MISSING: Final = re.compile(r"missing required field `(\w+)`")

log = logging.getLogger(__name__)


class FieldError(Struct, frozen=True, omit_defaults=True):
    """What is wrong with one field; `source` is body, query, path or header."""

    field: str
    detail: str
    source: str = "body"


class ProblemBody(Struct, frozen=True, omit_defaults=True):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError] = field(default_factory=list)
    refused: list[Any] = field(default_factory=list)
    """Of a batch none of which was taken: each item's reason."""


class Problem(Exception):
    """An answer that is an error. `kind` is a stable word for machines, `detail` a sentence for people."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        refused: Sequence[Any] = (),
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.retry_after, self._headers = status, retry_after, dict(headers or {})
        self.body = ProblemBody(
            TYPE_PREFIX + kind, HTTPStatus(status).phrase, status, detail, list(errors), list(refused)
        )

    @property
    def headers(self) -> dict[str, str]:
        """What goes with the answer; Retry-After in whole seconds, at least one, where waiting helps."""
        if self.retry_after is None:
            return self._headers
        return self._headers | {"Retry-After": str(max(1, math.ceil(self.retry_after)))}


def invalid(name: str, detail: str, source: str = "body") -> Problem:
    """422 for a body's field, 400 for one of the address or a header."""
    status = HTTPStatus.UNPROCESSABLE_ENTITY if source == "body" else HTTPStatus.BAD_REQUEST
    return Problem(status, "invalid", f"{name}: {detail}", errors=[FieldError(name, detail, source)])


def malformed(detail: str) -> Problem:
    """400 for a body that can't be read at all."""
    return Problem(HTTPStatus.BAD_REQUEST, "malformed", detail)


def unavailable(detail: str, retry_after: float = 1.0) -> Problem:
    """503: the same request may succeed later."""
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", detail, retry_after=retry_after)


def no_nul(**fields: str | None) -> None:
    """Refuse the one character that PostgreSQL can't store.

    Raises:
        Problem: 422 naming the field.
    """
    for name, value in fields.items():
        if value is not None and "\0" in value:
            raise invalid(name, "holds a NUL character")


SPECS: Final = {
    400: ResponseSpec(ProblemBody, description="The request can't be read", media_type=MEDIA_TYPE),
    401: ResponseSpec(ProblemBody, description="No API key, or one that doesn't hold", media_type=MEDIA_TYPE),
    403: ResponseSpec(
        ProblemBody, description="The key may not do this, or not under that name", media_type=MEDIA_TYPE
    ),
    422: ResponseSpec(ProblemBody, description="A field is not as it must be", media_type=MEDIA_TYPE),
    429: ResponseSpec(ProblemBody, description="Too much at once; see Retry-After", media_type=MEDIA_TYPE),
    503: ResponseSpec(ProblemBody, description="A server is away; see Retry-After", media_type=MEDIA_TYPE),
}
"""What any route may answer, for the OpenAPI document."""


def _internal(status: int) -> Problem:
    return Problem(status, "internal", "an error of ours; it is in the service's log")


_Request = Request[Any, Any, State]
_Response = Response[ProblemBody]


def _answer(problem: Problem, headers: dict[str, str] | None = None) -> _Response:
    return Response(
        problem.body, status_code=problem.status, media_type=MEDIA_TYPE, headers=problem.headers | (headers or {})
    )


def _on_problem(_: _Request, error: Problem) -> _Response:
    return _answer(error)


def _on_validation(_: _Request, error: ValidationException) -> _Response:
    errors = [_field_error(entry) for entry in error.extra or () if isinstance(entry, dict)]
    in_body = any(entry.source == "body" for entry in errors)
    status = HTTPStatus.UNPROCESSABLE_ENTITY if in_body else HTTPStatus.BAD_REQUEST
    detail = "; ".join(f"{entry.field}: {entry.detail}" for entry in errors) or error.detail
    return _answer(Problem(status, "invalid", detail, errors=errors))


def _field_error(entry: dict[str, Any]) -> FieldError:
    name, detail = str(entry.get("key", "data")), str(entry["message"])
    missing = _MISSING.search(detail)
    if missing is not None:
        name, detail = missing[1], "is missing"
    elif name == "data":
        name, detail = "body", "a JSON object is needed" if detail == "'data'" else detail
    if detail.startswith("Invalid enum value") and name in CHOICES:
        detail += f"; it takes {CHOICES[name]}"
    source = entry.get("source", "query")
    return FieldError(name, detail, str(getattr(source, "value", source)))


def _on_too_large(request: _Request, _: RequestEntityTooLarge) -> _Response:
    limit = request.route_handler.resolve_request_max_body_size()
    return _answer(Problem(413, "too-large", f"the body is larger than the {limit:,} bytes that are taken"))


def _on_http(_: _Request, error: HTTPException) -> _Response:
    if error.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("%s", error)
        return _answer(_internal(error.status_code))
    kind = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    return _answer(Problem(error.status_code, kind, error.detail or kind), error.headers)


def _on_transient(_: _Request, error: Transient) -> _Response:
    log.warning("unavailable: %s", error)
    return _answer(unavailable("the database or the log is away; try again"))


def _on_rejected(_: _Request, error: Rejected) -> _Response:
    return _answer(Problem(HTTPStatus.UNPROCESSABLE_ENTITY, error.reason, error.detail or error.reason))


def _on_fatal(_: _Request, error: Fatal) -> _Response:
    log.error("%s", error)
    return _answer(unavailable("this can't be served now; the service's log says why", retry_after=10.0))


def _on_defect(request: _Request, error: Exception) -> _Response:
    log.error("%s %r failed", request.method, masked(request.url.path), exc_info=error)
    return _answer(_internal(HTTPStatus.INTERNAL_SERVER_ERROR))


HANDLERS: Final[ExceptionHandlersMap] = {
    Problem: _on_problem,
    ValidationException: _on_validation,
    RequestEntityTooLarge: _on_too_large,
    HTTPException: _on_http,
    Transient: _on_transient,
    Rejected: _on_rejected,
    Fatal: _on_fatal,
    Exception: _on_defect,
}
