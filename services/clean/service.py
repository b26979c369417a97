"""The clean service's life."""

from __future__ import annotations

from typing import Final

from services.clean.pipeline import CleanSettings
from services.clean.worker import Clean
from services.runtime import Context
from services.stream import topics

GROUP: Final = "clean"
EVERY_S: Final = 0.02


def serve(context: Context) -> None:
    """Run until stopped."""
    languages = tuple(code.strip() for code in context.settings.languages.split(","))
    # Twice: a log drops whole segments, so that a record outlasts its retention by up to one of them.
    claims_s = max(context.settings.retention_s, 2 * context.settings.text_retention_s)
    step = Clean(context.connect, context.valkey(), CleanSettings(languages=languages, claims_s=claims_s))
    context.state = "running"
    context.loop(GROUP, topics.RAW, every_s=EVERY_S).transform(step)
