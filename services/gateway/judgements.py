"""POST /v1/feedback: a person's word on a prediction."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import post
from litestar.openapi import ResponseSpec
from litestar.params import HeaderParameter, JSONBody
from msgspec import Meta
from psycopg2.extensions import cursor as Cursor

from services import annotators
from services.gateway import queries
from services.gateway.access import name_of
from services.gateway.core import SafeRequest, gateway_of
from services.gateway.problems import MEDIA_TYPE, SPECS, Problem, ProblemBody, invalid, no_nul
from services.runtime import now_ms
from services.stream import topics
from services.stream.bus import Outgoing
from services.stream.events import Feedback, FeedbackKind, Label, Name, ShortText, encode, feedback_id

_Id = Annotated[str, Meta(min_length=1, max_length=200)]
_SPECS = {**SPECS, 409: ResponseSpec(ProblemBody, description="The key was used before", media_type=MEDIA_TYPE)}


class FeedbackRequest(msgspec.Struct, frozen=True):
    """`annotator` is the key's name, and may be left out; without keys it is needed, and any pseudonym will do.
    `text_id` and `kind` are needed only for a prediction that isn't stored yet."""

    prediction_id: _Id
    label: Label
    annotator: Name | None = None
    kind: FeedbackKind | None = None
    comment: ShortText | None = None
    sampled: bool = False
    """The text was shown because it was drawn at random, not chosen by anyone; counts where it is held out."""
    text_id: _Id | None = None
    key: Annotated[str, Meta(min_length=1, max_length=500)] | None = None
    """As the header Idempotency-Key: what one annotator sends twice under one key, on one prediction, counts once."""


class FeedbackAnswer(msgspec.Struct, frozen=True):
    """Durable."""

    feedback_id: str
    kind: FeedbackKind


@post("/v1/feedback", status_code=202, responses=_SPECS, tags=["feedback"])
async def post_feedback(
    request: SafeRequest,
    data: JSONBody[FeedbackRequest],
    idempotency_key: Annotated[
        str | None, HeaderParameter(name="Idempotency-Key", min_length=1, max_length=500)
    ] = None,
) -> FeedbackAnswer:
    """Confirm or correct a prediction. Answers once it is durable; sent twice, it counts once."""
    no_nul(**{name: getattr(data, name) for name in ("prediction_id", "annotator", "comment", "text_id", "key")})
    gateway, name = gateway_of(request), name_of(request, "annotator", data.annotator)
    key = idempotency_key or data.key

    def look(cursor: Cursor) -> tuple[str, str, queries.PredictionView | None, str | None]:
        annotator = annotators.pseudonym(cursor, name)
        identity = feedback_id(data.prediction_id, annotator, data.label, key)
        stored = queries.prediction(cursor, data.prediction_id)
        return annotator, identity, stored, queries.label_said(cursor, identity)

    annotator, identity, stored, said = await gateway.pool.run(look)
    if said not in (None, data.label):
        raise Problem(409, "key-reused", f"under this key the prediction was called {said}, not {data.label}")
    text_id, kind = _of_stored(data, stored) if stored is not None else _of_new(data)
    event = Feedback(
        feedback_id=identity,
        prediction_id=data.prediction_id,
        text_id=text_id,
        kind=kind,
        label=data.label,
        annotator=annotator,
        sampled=data.sampled,
        given=now_ms(),
    )
    if (comment := data.comment) is not None:  # before the event: once that is durable nothing may be missing
        await gateway.pool.run(lambda cursor: queries.keep_comment(cursor, event, comment))
    await gateway.acceptor.publish([Outgoing(topics.FEEDBACK, text_id.encode(), encode(event))])
    return FeedbackAnswer(event.feedback_id, kind)


def _of_stored(data: FeedbackRequest, stored: queries.PredictionView) -> tuple[str, FeedbackKind]:
    if data.text_id is not None and data.text_id != stored.text_id:
        raise invalid("text_id", "the prediction is of another text")
    kind: FeedbackKind = "confirmation" if data.label == stored.label else "correction"
    if data.kind is not None and data.kind != kind:
        raise invalid("kind", f"the prediction says {stored.label}: {data.label} is a {kind}")
    return stored.text_id, kind


def _of_new(data: FeedbackRequest) -> tuple[str, FeedbackKind]:
    if data.text_id is None:
        raise Problem(
            404,
            "not-found",
            "no such prediction is stored; if it has just come by the live stream, send its text_id and a kind too",
        )
    if data.kind is None:
        raise invalid("kind", "the prediction isn't stored yet: say whether this is a correction or a confirmation")
    return data.text_id, data.kind
