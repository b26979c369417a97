"""Events for tests."""

from __future__ import annotations

import msgspec

from services.stream import topics
from services.stream.bus import Outgoing
from services.stream.events import (
    CleanText,
    Feedback,
    Label,
    Origin,
    Prediction,
    RejectedText,
    encode,
    prediction_id,
)


def clean_text(text_id: str, text: str = "Profit rises", **other: object) -> Outgoing:
    event = CleanText(
        text_id=text_id, cluster=text_id, text=text, source="wire", event_time=1_000, received=2_000, language="en",
        origin=Origin(topics.RAW, 0, 0), **other,  # type: ignore[arg-type]
    )  # fmt: skip
    return Outgoing(topics.CLEAN, text_id.encode(), encode(event))


def prediction(text_id: str, label: Label = "positive", at: int = 1_000, tickers: tuple[str, ...] = ()) -> Prediction:
    probabilities = {"negative": (0.8, 0.1, 0.1), "neutral": (0.1, 0.8, 0.1), "positive": (0.1, 0.1, 0.8)}[label]
    return Prediction(
        prediction_id=prediction_id(text_id, "m1"), text_id=text_id, cluster=text_id, label=label,
        probabilities=probabilities, model="m1", epoch=1, tickers=tickers, source="wire", language="en",
        event_time=at, scored=at, origin=Origin(topics.CLEAN, 0, 0),
    )  # fmt: skip


def published(event: Prediction) -> Outgoing:
    return Outgoing(topics.PREDICTIONS, event.text_id.encode(), encode(event))


def shadow_of(event: Prediction) -> Outgoing:
    """As a shadow that began after the prediction would say it."""
    identity = prediction_id(event.text_id, "m2")
    said = msgspec.structs.replace(event, prediction_id=identity, model="m2", epoch=event.epoch + 1)
    return Outgoing(topics.SHADOW, said.text_id.encode(), encode(said))


def rejected(text_id: str, reason: str) -> Outgoing:
    event = RejectedText(text_id=text_id, reason=reason, source="wire", text="x", origin=Origin(topics.RAW, 0, 0))
    return Outgoing(topics.REJECTED, text_id.encode(), encode(event))


def feedback(
    key: str, text_id: str, label: Label | None, kind: str = "correction", annotator: str = "ana", **other: object
) -> Outgoing:
    event = Feedback(
        feedback_id=key, prediction_id=prediction_id(text_id, "m1"), text_id=text_id, kind=kind, label=label,  # type: ignore[arg-type]
        annotator=annotator, **{"given": 5_000, **other},  # type: ignore[arg-type]
    )  # fmt: skip
    return Outgoing(topics.FEEDBACK, text_id.encode(), encode(event))
