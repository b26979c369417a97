"""A scored text as events: its prediction, and a mention of each of its tickers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from services.score.engine import Scored
from services.stream import topics
from services.stream.bus import Outgoing, Record
from services.stream.errors import Rejected
from services.stream.events import CleanText, Mention, Origin, Prediction, encode, prediction_id
from services.stream.loop import Answer


class Used(Protocol):
    """The model that a text was scored with."""

    @property
    def version(self) -> str:
        """Its version."""

    @property
    def epoch(self) -> int:
        """Its epoch."""


def events(
    text: CleanText, scored: Scored | Rejected, record: Record, used: Used, at: int, languages: Sequence[str] = ()
) -> Answer:
    """The prediction of a text and its mentions; `at` is when it was scored, in milliseconds, `languages` are those of
    the model's card."""
    if isinstance(scored, Rejected):
        return scored
    prediction = predicted(text, scored, record, used, at, languages)
    mentions = [
        Outgoing(topics.MENTIONS, ticker.encode(), encode(_mention(prediction, ticker)))
        for ticker in dict.fromkeys(text.tickers)
    ]
    return [Outgoing(topics.PREDICTIONS, text.text_id.encode(), encode(prediction)), *mentions]


def predicted(
    text: CleanText, scored: Scored, record: Record, used: Used, at: int, languages: Sequence[str] = ()
) -> Prediction:
    """The prediction alone; see `events`."""
    return Prediction(
        prediction_id=prediction_id(text.text_id, used.version),
        text_id=text.text_id,
        cluster=text.cluster,
        label=scored.label,
        probabilities=scored.probabilities,
        model=used.version,
        epoch=used.epoch,
        tickers=text.tickers,
        source=text.source,
        language=text.language,
        event_time=text.event_time,
        scored=at,
        truncated=scored.truncated,
        abstained=scored.abstained,
        foreign=bool(languages) and text.language not in languages,
        origin=Origin(record.topic, record.partition, record.offset),
    )


def _mention(prediction: Prediction, ticker: str) -> Mention:
    return Mention(
        prediction_id=prediction.prediction_id,
        text_id=prediction.text_id,
        ticker=ticker,
        label=prediction.label,
        sentiment=prediction.sentiment,
        event_time=prediction.event_time,
        model=prediction.model,
        epoch=prediction.epoch,
    )
