"""Every topic, with what it keeps and for how long. The one place a topic is named."""

from __future__ import annotations

from typing import Final, NamedTuple

DAY_MS: Final = 24 * 3600 * 1000

RAW: Final = "texts.raw"
CLEAN: Final = "texts.clean"
REJECTED: Final = "texts.rejected"
PREDICTIONS: Final = "predictions"
SHADOW: Final = "predictions.shadow"
MENTIONS: Final = "mentions"
FEEDBACK: Final = "feedback.raw"
EXAMPLES: Final = "training.examples"
MODELS: Final = "models"
PREPARATIONS: Final = "preparations"

DEAD_SUFFIX: Final = ".dead"

MAX_EVENT_BYTES: Final = 1_000_000
"""Largest value of an ordinary topic; Kafka's own default (`message.max.bytes`) leaves room for headers above it."""

MAX_DEAD_BYTES: Final = 2 * MAX_EVENT_BYTES
"""A dead letter carries the event as it came plus headers; a stranger's client may have sent more than the limit."""


class Topic(NamedTuple):
    """One topic's shape. `retention_ms` None keeps for ever; `single` forces one partition."""

    name: str
    retention_ms: int | None
    single: bool = False

    @property
    def max_bytes(self) -> int:
        """Largest accepted value, in bytes."""
        return MAX_DEAD_BYTES if self.name.endswith(DEAD_SUFFIX) else MAX_EVENT_BYTES


def dead(topic: str) -> str:
    """Name of the dead-letter topic of `topic`."""
    return topic + DEAD_SUFFIX


def catalogue(text_retention_ms: int = 3 * DAY_MS, retention_ms: int = 30 * DAY_MS) -> tuple[Topic, ...]:
    """All topics. Text lives `text_retention_ms`; ids and probabilities `retention_ms`; labels and models for ever;
    what was asked of the scorers a day, though nobody waits for an answer longer than minutes."""
    texts = (RAW, CLEAN, REJECTED)
    return (
        *(Topic(name, text_retention_ms) for name in texts),
        *(Topic(dead(name), text_retention_ms) for name in texts),
        Topic(PREDICTIONS, retention_ms),
        Topic(dead(PREDICTIONS), retention_ms),
        Topic(SHADOW, retention_ms),
        Topic(dead(SHADOW), retention_ms),
        Topic(MENTIONS, retention_ms),
        Topic(dead(MENTIONS), retention_ms),
        Topic(FEEDBACK, None),
        Topic(dead(FEEDBACK), None),
        Topic(EXAMPLES, None),
        Topic(dead(EXAMPLES), None),
        Topic(MODELS, None, single=True),
        Topic(PREPARATIONS, DAY_MS, single=True),
    )
