"""The clean service's life."""

from __future__ import annotations

from typing import Final

from services.clean.language import CODES
from services.clean.pipeline import CleanSettings
from services.clean.worker import Clean
from services.runtime import Context
from services.stream import topics
from services.stream.errors import Misconfigured

GROUP: Final = "clean"
EVERY_S: Final = 0.02


def serve(context: Context) -> None:
    """Run until stopped.

    Raises:
        Misconfigured: an unknown language, or a company table that can't be read.
    """
    settings = CleanSettings(
        languages=_languages(context.settings.languages),
        companies=context.settings.companies or None,
        # Twice: a log drops whole segments, so that a record outlasts its retention by up to one of them.
        claims_s=max(context.settings.retention_s, 2 * context.settings.text_retention_s),
    )
    step = Clean(context.connect, context.valkey(), settings)
    context.state = "running"
    context.loop(GROUP, topics.RAW, every_s=EVERY_S).transform(step)


def _languages(wanted: str) -> tuple[str, ...]:
    codes = tuple(code.strip().lower() for code in wanted.split(","))
    unknown = [code for code in codes if code not in CODES]
    if unknown:
        raise Misconfigured(
            f"TICKERLOOP_LANGUAGES: no text is found to be {', '.join(map(repr, unknown))}; it takes ISO 639-1 codes,"
            f" divided by commas, among {', '.join(sorted(CODES))}"
        )
    return codes
