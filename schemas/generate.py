"""Write the events' JSON Schemas to `schemas/events/`: `python -m schemas.generate`. A test fails when they drift."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import msgspec

from services.stream import events, topics

FOLDER: Final = Path(__file__).parent / "events"

KINDS: Final[dict[str, type[events.Event]]] = {
    topics.RAW: events.RawText,
    topics.CLEAN: events.CleanText,
    topics.REJECTED: events.RejectedText,
    topics.PREDICTIONS: events.Prediction,
    topics.SHADOW: events.Prediction,
    topics.MENTIONS: events.Mention,
    topics.FEEDBACK: events.Feedback,
    topics.EXAMPLES: events.Example,
    topics.MODELS: events.ModelChange,
    topics.PREPARATIONS: events.Preparation,
}


def schema(topic: str) -> str:
    """The JSON Schema (draft 2020-12) of a topic's events, as text."""
    content = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(KINDS[topic])}
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def main() -> None:
    """Write all of them."""
    FOLDER.mkdir(exist_ok=True)
    for topic in KINDS:
        (FOLDER / f"{topic}.json").write_text(schema(topic), encoding="utf-8")


if __name__ == "__main__":
    main()
