"""People's words on predictions, and systems': POST and DELETE /v1/feedback, POST /v1/outcomes, and all on one text."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import msgspec
from litestar import delete, get, post
from litestar.openapi import ResponseSpec
from litestar.params import HeaderParameter, JSONBody, PathParameter
from msgspec import Meta
from psycopg2.extensions import cursor as Cursor

from services import annotators
from services.feedback.gold import gold
from services.gateway import queries, words
from services.gateway.access import name_of, standing_of
from services.gateway.core import Gateway, SafeRequest, gateway_of
from services.gateway.problems import MEDIA_TYPE, SPECS, Problem, ProblemBody, invalid, no_nul
from services.gateway.words import WordView
from services.keys import Key
from services.review import leases
from services.runtime import now_ms
from services.stream import topics
from services.stream.bus import Outgoing
from services.stream.events import (
    Feedback,
    FeedbackKind,
    Flag,
    Label,
    Name,
    RawText,
    SaidKind,
    ShortText,
    encode,
    feedback_id,
    said,
    text_id,
    withdrawal_id,
)

STORED_S: Final = 2.0
"""Longest wait for a word that is to be withdrawn: it may have been given a moment ago, and be on its way."""

_Id = Annotated[str, Meta(min_length=1, max_length=200)]
_Key = Annotated[str, Meta(min_length=1, max_length=500)]
_KeyHeader = Annotated[str | None, HeaderParameter(name="Idempotency-Key", min_length=1, max_length=500)]
_SPECS = {**SPECS, 409: ResponseSpec(ProblemBody, description="The key was used before", media_type=MEDIA_TYPE)}


class FeedbackRequest(msgspec.Struct, frozen=True):
    """A label, with or without a comment, or a flag, or a comment alone. `annotator` is the key's name, and may be left
    out; without keys it is needed, and any pseudonym will do. `text_id`, and of a label `kind`, are needed only for a
    prediction that isn't stored yet."""

    prediction_id: _Id
    label: Label | None = None
    flag: Flag | None = None
    """What is wrong with the text, whatever its label: it says nothing against the prediction."""
    annotator: Name | None = None
    kind: SaidKind | None = None
    comment: ShortText | None = None
    sampled: bool = False
    """The text was shown because it was drawn at random, not chosen by anyone; counts where it is held out. The gateway
    knows it of what it leased."""
    text_id: _Id | None = None
    key: _Key | None = None
    """As the header Idempotency-Key: what one annotator sends twice under one key, on one prediction, counts once."""


class Outcome(msgspec.Struct, frozen=True):
    """A label that a system learned later, for a text by its source and the source's own id. `annotator` as in
    feedback."""

    source: Name
    id: _Key
    label: Label
    annotator: Name | None = None
    key: _Key | None = None


class FeedbackAnswer(msgspec.Struct, frozen=True):
    """Durable. By `feedback_id` it can be withdrawn."""

    feedback_id: str
    kind: FeedbackKind


@post("/v1/feedback", status_code=202, responses=_SPECS, tags=["feedback"])
async def post_feedback(
    request: SafeRequest, data: JSONBody[FeedbackRequest], idempotency_key: _KeyHeader = None
) -> FeedbackAnswer:
    """Confirm or correct a prediction, flag its text, or comment. Answers once it is durable; sent twice, it counts
    once."""
    no_nul(**{name: getattr(data, name) for name in ("prediction_id", "annotator", "comment", "text_id", "key")})
    gateway, name = gateway_of(request), name_of(request, "annotator", data.annotator)

    def look(cursor: Cursor) -> tuple[str, queries.PredictionView | None, bool]:
        annotator = annotators.pseudonym(cursor, name)
        drawn = leases.sampled(cursor, annotator, data.prediction_id)
        return annotator, queries.prediction(cursor, data.prediction_id), drawn

    annotator, stored, drawn = await gateway.pool.run(look)
    kind = _kind(data, stored)
    what = said(kind, data.label, data.flag)
    event = Feedback(
        feedback_id=feedback_id(data.prediction_id, annotator, what, idempotency_key or data.key),
        prediction_id=data.prediction_id,
        text_id=_text(data, stored),
        kind=kind,
        label=data.label,
        flag=data.flag,
        annotator=annotator,
        role=standing_of(request),
        sampled=data.sampled or drawn,
        given=now_ms(),
    )
    return await _publish(gateway, event, data.comment)


@post("/v1/outcomes", status_code=202, responses=_SPECS, tags=["feedback"])
async def post_outcome(
    request: SafeRequest, data: JSONBody[Outcome], idempotency_key: _KeyHeader = None
) -> FeedbackAnswer:
    """A label that arrives by itself, such as an analyst's verdict weeks later. It takes an operator: its sender is
    believed as one, and a source, who sends texts, must not be able to label them."""
    no_nul(source=data.source, id=data.id, annotator=data.annotator, key=data.key)
    gateway, name = gateway_of(request), name_of(request, "annotator", data.annotator)
    text = text_id(RawText(text="", source=data.source, id=data.id))
    annotator, prediction = await gateway.pool.run(
        lambda cursor: (annotators.pseudonym(cursor, name), words.newest_prediction(cursor, text))
    )
    if prediction is None:
        raise Problem(404, "not-found", "no scored text has this source and id; of copies only the first is scored")
    event = Feedback(
        feedback_id=feedback_id(prediction, annotator, data.label, idempotency_key or data.key),
        prediction_id=prediction,
        text_id=text,
        kind="outcome",
        label=data.label,
        annotator=annotator,
        role=standing_of(request),
        given=now_ms(),
    )
    return await _publish(gateway, event, None)


@delete("/v1/feedback/{feedback_id:str}", status_code=202, responses=SPECS, tags=["feedback"])
async def delete_feedback(
    request: SafeRequest, feedback_id: Annotated[str, PathParameter(max_length=200)]
) -> FeedbackAnswer:
    """Take a word back: one's own, or as an operator anyone's. It is kept, but counts no more; what the same annotator
    said before it counts again. Sent twice, it is done once."""
    no_nul(feedback_id=feedback_id)
    gateway = gateway_of(request)
    word = await _stored(gateway, feedback_id)
    key: Key | None = request.user
    if key is not None and not key.may("operator") and word.annotator != key.name:
        raise Problem(403, "not-yours", f"the word {feedback_id} is another annotator's")
    name = word.annotator if key is None else key.name
    event = Feedback(
        feedback_id=withdrawal_id(feedback_id),
        prediction_id=word.prediction_id,
        text_id=word.text_id,
        kind="withdrawal",
        withdraws=feedback_id,
        annotator=await gateway.pool.run(lambda cursor: annotators.pseudonym(cursor, name)),
        role=standing_of(request),
        given=now_ms(),
    )
    return await _publish(gateway, event, None)


@get("/v1/predictions/{prediction_id:str}/feedback", responses=SPECS, tags=["feedback"])
async def get_feedback(
    request: SafeRequest, prediction_id: Annotated[str, PathParameter(max_length=200)]
) -> list[WordView]:
    """All that was said on a prediction's text, oldest first, what was withdrawn too: labels, flags, comments,
    outcomes. It takes an operator: who is still to judge the text shouldn't know what others said."""
    no_nul(prediction_id=prediction_id)
    return await gateway_of(request).pool.run(lambda cursor: words.on_text_of(cursor, prediction_id))


async def _publish(gateway: Gateway, event: Feedback, comment: str | None) -> FeedbackAnswer:
    identity = event.feedback_id
    earlier = await gateway.pool.run(lambda cursor: words.word(cursor, identity))
    if earlier is not None and earlier.said != event.said:
        raise Problem(409, "key-reused", f"under this key {earlier.said} was said of the prediction, not {event.said}")
    if comment is not None:  # before the event: once that is durable nothing may be missing
        await gateway.pool.run(lambda cursor: queries.keep_comment(cursor, event, comment))
    await gateway.acceptor.publish([Outgoing(topics.FEEDBACK, event.text_id.encode(), encode(event))])
    await gateway.pool.run(lambda cursor: leases.answer(cursor, event.annotator, event.prediction_id, event.given))
    return FeedbackAnswer(identity, event.kind)


async def _stored(gateway: Gateway, identity: str) -> WordView:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + STORED_S
    while (found := await gateway.pool.run(lambda cursor: words.word(cursor, identity))) is None:
        if loop.time() > deadline:
            raise Problem(404, "not-found", f"there is no word {identity}")
        await asyncio.sleep(0.1)
    if found.kind == "withdrawal":
        raise Problem(404, "not-found", f"{identity} is a withdrawal; to take it back, say the word again")
    return found


def _text(data: FeedbackRequest, stored: queries.PredictionView | None) -> str:
    if stored is not None:
        if data.text_id not in (None, stored.text_id):
            raise invalid("text_id", "the prediction is of another text")
        return stored.text_id
    if data.text_id is not None:
        return data.text_id
    if data.prediction_id in gold():
        return data.prediction_id
    raise Problem(
        404,
        "not-found",
        "no such prediction is stored; if it has just come by the live stream, send its text_id and a kind too",
    )


def _kind(data: FeedbackRequest, stored: queries.PredictionView | None) -> FeedbackKind:
    kind = _labelled(data, stored) if data.label is not None else _unlabelled(data)
    if data.kind not in (None, kind):
        reason = f"the prediction says {stored.label}: {data.label} is" if stored and data.label else "this is"
        raise invalid("kind", f"{reason} a {kind}")
    return kind


def _labelled(data: FeedbackRequest, stored: queries.PredictionView | None) -> FeedbackKind:
    if data.flag is not None:
        raise invalid("flag", "is a word of its own: send it without a label")
    if stored is not None:
        return "confirmation" if data.label == stored.label else "correction"
    if data.kind in ("correction", "confirmation"):
        return data.kind
    if data.prediction_id in gold():
        return "correction"
    _text(data, stored)
    raise invalid("kind", "the prediction isn't stored yet: say whether this is a correction or a confirmation")


def _unlabelled(data: FeedbackRequest) -> FeedbackKind:
    if data.flag is not None:
        return "flag"
    if data.comment is None:
        raise invalid("label", "is missing: a word is a label, a flag or a comment")
    return "comment"
