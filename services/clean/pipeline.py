"""One text, from what its source sent to what is scored: pure, in a straight line, about 40 µs a headline."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from services.clean import boilerplate, entities, html, language, length, privacy, unicode
from services.clean.fingerprint import Fingerprint, fingerprint
from services.clean.times import event_time
from services.stream.events import CleanText, Origin, RawText, RejectedText, text_id

DAY_S: Final = 24 * 3600

_PLATFORMS: Final = frozenset(("META", "GOOGL"))
"""Whom menus and cookie banners name (`Share on Facebook`)."""


class CleanSettings(msgspec.Struct, frozen=True):
    """What a deployment may choose."""

    languages: tuple[str, ...] = ("en", "zh")
    """ISO 639-1 codes that pass."""
    companies: str | None = None
    """Path of a company table; None takes the project's (`entities`)."""
    copies_s: int = 3 * DAY_S
    """How far apart in event time two equal texts are still one story."""
    claims_s: int = 30 * DAY_S
    """How long an id is remembered; longer than `texts.raw` keeps a record, and at least `copies_s`."""


class Cleaned(NamedTuple):
    """A text that is scored if no other member of its cluster was: then the cluster bears its id."""

    text: CleanText
    fingerprint: Fingerprint


def clean(raw: RawText, received_ms: int, origin: Origin, settings: CleanSettings) -> Cleaned | RejectedText:
    """Normalise, judge and describe one text; deterministic."""
    identity = text_id(raw)
    table = entities.load(settings.companies)
    marks: list[str] = []

    body, body_marks = _prepared(raw.text, table)
    title, _ = _prepared(raw.title, table) if raw.title else ("", ())
    if not body and "cut:boilerplate" not in body_marks:
        body, title = title, ""  # a headline alone is a text; one above nothing but boilerplate is not
    marks += body_marks
    reason = length.refusal(body)
    if reason:
        return refused(raw, identity, "boilerplate" if "cut:boilerplate" in body_marks and not body else reason, origin)

    code = language.detect(body, raw.language)
    if code not in settings.languages:
        return refused(raw, identity, "language", origin, detail=code)

    body, kinds = privacy.mask(body)
    title, title_kinds = privacy.mask(title) if title else ("", ())
    url, url_kinds = privacy.mask_address(unicode.repair(raw.url)) if raw.url else (None, ())
    # The text's id is made of the source's id as it came.
    external_id, id_kinds = privacy.mask_address(unicode.repair(raw.id)) if raw.id else (None, ())
    marks += (f"masked:{kind}" for kind in dict.fromkeys((*kinds, *title_kinds, *url_kinds, *id_kinds)))

    text = body if not title or title.casefold() in body.casefold() else f"{title}\n{body}"
    tickers = entities.tickers(text, table)
    when = event_time(raw.published, received_ms)
    if when.mark:
        marks.append(when.mark)

    event = CleanText(
        text_id=identity,
        cluster=identity,
        text=text,
        source=unicode.repair(raw.source),
        event_time=when.ms,
        received=received_ms,
        language=code,
        external_id=external_id,
        url=url,
        tickers=tickers,
        marks=tuple(marks),
        origin=origin,
    )
    return Cleaned(event, fingerprint(body, title, tickers))


def _prepared(text: str, table: entities.Table) -> tuple[str, tuple[str, ...]]:
    """Readable text, and what was taken out of it."""
    plain = html.to_text(text)
    marks: tuple[str, ...] = ("stripped:html",) if plain is not text and html.has_markup(text) else ()
    tidy = boilerplate.tidy(unicode.repair(plain))
    kept = boilerplate.cut(tidy)
    if not kept and not marks and not _PLATFORMS.issuperset(entities.tickers(tidy, table)):
        kept = tidy  # prompts name no company but those that all pages name
    if kept != tidy or (not kept and marks and boilerplate.tidy(html.to_text(text, chrome=True))):
        marks += ("cut:boilerplate",)
    return kept, marks


def refused(
    raw: RawText, identity: str, reason: str, origin: Origin, *, detail: str = "", duplicate_of: str | None = None
) -> RejectedText:
    """A text that is not scored, as it came but for NUL, which PostgreSQL's text doesn't take."""
    return RejectedText(
        text_id=identity,
        reason=reason,
        detail=detail,
        source=unicode.repair(raw.source),
        text=raw.text.replace("\0", "\ufffd"),
        duplicate_of=duplicate_of,
        origin=origin,
    )
