"""When a text was published, as far as its source can be believed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NamedTuple

MAX_AHEAD_MS: Final = 5 * 60 * 1000
"""Clocks differ; more than this ahead of arrival is a mistake or a lie, and would push watermarks forward."""

OLDEST_MS: Final = 631_152_000_000
"""1990-01-01: what claims to be older is a default value of some feed, not a date."""

_MILLIS_FROM: Final = 100_000_000_000
"""Epoch numbers from here on are milliseconds (as seconds they'd lie in the year 5138)."""

_NO_TIME_FROM: Final = 10**18
"""Larger numbers, infinities too, are no time at all; JSON's integers may be too large for any float."""


class EventTime(NamedTuple):
    """Milliseconds since the epoch, and what had to be done to get them ('' when nothing)."""

    ms: int
    mark: str = ""


def event_time(published: str | int | float | None, received_ms: int) -> EventTime:
    """Published time, or arrival with the reason: absent, unreadable, before 1990 or in the future."""
    if published is None:
        return EventTime(received_ms)
    ms = _millis(published)
    if ms is None:
        return EventTime(received_ms, "unreadable:published")
    if ms > received_ms + MAX_AHEAD_MS:
        return EventTime(received_ms, "clamped:future")
    if ms < OLDEST_MS:
        return EventTime(received_ms, "clamped:past")
    return EventTime(ms)


def _millis(published: str | int | float) -> int | None:
    if isinstance(published, str):
        published = published.strip()
        try:
            when = datetime.fromisoformat(published)
        except ValueError:
            when = None
        # fromisoformat reads eight or ten bare digits as a date or week; those are epoch seconds here.
        if when is not None and not published.isdigit():
            return _of(when)
        try:
            published = float(published)
        except ValueError:
            return None
    if not abs(published) < _NO_TIME_FROM:  # nor NaN
        return None
    return int(published if abs(published) >= _MILLIS_FROM else published * 1000)


def _of(when: datetime) -> int | None:
    """A time without an offset is UTC."""
    try:
        return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)
    except (OverflowError, ValueError):
        return None
