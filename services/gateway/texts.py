"""POST /v1/texts, /v1/score and /v1/explain."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import msgspec
from litestar import post
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import JSONBody

from services.gateway import intake
from services.gateway.core import SafeRequest, charge, gateway_of
from services.gateway.gone import unless_gone
from services.gateway.problems import MEDIA_TYPE, SPECS, Problem, ProblemBody
from services.score.wire import ExplainRequest, Explanation, ScoreRequest, Scores
from services.stream import metrics

LARGE_BODY: Final = 256_000
"""Bytes from which a body is parsed on another thread: the event loop has streams to serve."""
EXPLAIN_COST: Final = 256
"""What one explanation takes of a client's allowance: it is about as much work as scoring so many texts."""


class TextsAnswer(msgspec.Struct, frozen=True):
    """`accepted` texts are durable; `refused` ones were not taken and say why."""

    accepted: list[intake.Accepted]
    refused: list[intake.Refused]


_WORKER_SPECS: Final = {
    **SPECS,
    502: ResponseSpec(ProblemBody, description="A score worker failed", media_type=MEDIA_TYPE),
}


@dataclass
class _TextsOperation(Operation):
    """Describes the body that the handler reads by itself."""

    def __post_init__(self) -> None:
        text = Schema(
            type=OpenAPIType.OBJECT,
            required=["text"],
            properties={
                "text": Schema(type=OpenAPIType.STRING, max_length=200_000),
                "source": Schema(type=OpenAPIType.STRING, min_length=1, max_length=200),
                "id": Schema(type=OpenAPIType.STRING, description="the source's own id; without one, the content is"),
                "title": Schema(type=OpenAPIType.STRING, max_length=2_000),
                "url": Schema(type=OpenAPIType.STRING, max_length=2_000),
                "published": Schema(description="RFC 3339 text, or seconds or milliseconds since the epoch"),
                "language": Schema(type=OpenAPIType.STRING, max_length=35),
            },
        )
        batch = Schema(one_of=[text, Schema(type=OpenAPIType.ARRAY, items=text)])
        self.request_body = RequestBody(
            {"application/json": OpenAPIMediaType(batch), "application/x-ndjson": OpenAPIMediaType(text)}, required=True
        )


@post(
    "/v1/texts",
    status_code=202,
    operation_class=_TextsOperation,
    responses={**SPECS, 413: ResponseSpec(ProblemBody, description="Too large", media_type=MEDIA_TYPE)},
    tags=["texts"],
)
async def post_texts(request: SafeRequest) -> TextsAnswer:
    """Take texts: a JSON object, an array of them, or NDJSON. Answers once they are durable.

    Of a batch the good items are taken and the bad ones named. Sending the same again is harmless: ids are derived.
    """
    gateway = gateway_of(request)
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(415, "unsupported-media-type", "compressed bodies are not taken")
    body, media_type = await request.body(), request.content_type[0].lower()
    arguments = (body, media_type, gateway.limits.batch_items)
    read = await asyncio.to_thread(intake.read, *arguments) if len(body) > LARGE_BODY else intake.read(*arguments)
    if (items := len(read.accepted) + len(read.refused)) > 1:
        await charge(request, items - 1)
    if not read.accepted:
        raise intake.nothing(read.refused)
    await gateway.acceptor.publish(read.events)
    metrics.ACCEPTED.inc(len(read.accepted))
    return TextsAnswer(read.accepted, read.refused[: intake.NAMED_REFUSALS])


@post("/v1/score", status_code=200, responses=_WORKER_SPECS, tags=["texts"])
async def post_score(request: SafeRequest, data: JSONBody[ScoreRequest]) -> Scores:
    """Score texts now, by a live score worker's model; probabilities are negative, neutral, positive."""
    gateway = gateway_of(request)
    if len(data.texts) > 1:
        await charge(request, len(data.texts) - 1)
    return await unless_gone(request.receive, gateway.scorers.score(data.texts))


@post("/v1/explain", status_code=200, responses=_WORKER_SPECS, tags=["texts"])
async def post_explain(request: SafeRequest, data: JSONBody[ExplainRequest]) -> Explanation:
    """Say what each word of a text adds to its label, by a live score worker's model.

    A worker explains one text at a time: a headline in about a second, the longest text in ten. It stops when the
    caller has gone.
    """
    await charge(request, EXPLAIN_COST - 1)
    return await unless_gone(request.receive, gateway_of(request).scorers.explain(data.text, data.label))
