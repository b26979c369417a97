"""One-minute windows by event time. Pure: what is counted is a function of a partition's records, in offset order.

- **Watermark**: the greatest event time seen on the source partition, never ahead of the arrival of the record that
  showed it: a source whose clock runs fast moves its own mentions, and doesn't make all others late.
- **Late**: a mention is late when the watermark had passed its window's end plus the lateness before it came. It is
  counted aside. Nothing else decides lateness: not batches, not restarts, not the wall clock.
- **Closed**: a window is closed once the watermark has passed its end plus the lateness; nothing can change it then.
  On an idle partition no watermark moves, so a timer closes windows by the wall clock. That is only a mark: it leaves
  the watermark alone, and a mention that still is in time opens the window again under a higher revision. So two runs
  over the same log may close at different moments, but count the same, and are equal once they are idle.

Event times are read from the record alone (its value and its arrival). Arrival times differ between two buses, which
shows only in mentions dated after their own arrival.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

from msgspec import Struct

from services.stream.events import Mention

WINDOW_MS: Final = 60_000
MICROS: Final = 1_000_000
"""Sentiments are summed as integer millionths: their sum doesn't depend on the order, and is off by 5e-7 a mention."""


class Rules(Struct, frozen=True, kw_only=True):
    """How long to wait for what."""

    lateness_ms: int = 120_000
    ahead_ms: int = 300_000
    """Farthest that an event time is believed ahead of its arrival; cleaning has the same limit."""
    idle_ms: int = 30_000
    """Silence after which a partition's windows are closed by the wall clock."""

    def closed_upto(self, now: int) -> int:
        """The latest start of a window that is closed when time, or the watermark, is `now`."""
        return now - self.lateness_ms - WINDOW_MS


class Progress(Struct, frozen=True):
    """How far one source partition is counted."""

    seen: int = -1
    """The last offset; a record at or below it was counted before and is passed over."""
    watermark: int = 0


class Sighting(NamedTuple):
    """One record of a partition. `mention` None is a record that was rejected: only its offset counts."""

    offset: int
    arrival: int
    mention: Mention | None


class Window(NamedTuple):
    """A ticker's minute; `start` in ms."""

    ticker: str
    start: int


class Tally(NamedTuple):
    """What is added to one window. Tallies add up in any order and grouping."""

    n: int = 0
    negative: int = 0
    neutral: int = 0
    positive: int = 0
    micros: int = 0

    def plus(self, other: Tally) -> Tally:
        """The sum."""
        return Tally(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Folded(NamedTuple):
    """What records of one partition come to: the partition's new progress and what to add to its windows."""

    progress: Progress
    counted: Mapping[Window, Tally]
    late: Mapping[Window, int]


def fold(progress: Progress, sightings: Iterable[Sighting], rules: Rules) -> Folded:
    """Count records that follow `progress`, in offset order; those it has seen are passed over."""
    seen, watermark = progress.seen, progress.watermark
    counted: dict[Window, Tally] = {}
    late: dict[Window, int] = {}
    for offset, arrival, mention in sightings:
        if offset <= seen:
            continue
        seen = offset
        if mention is None:
            continue
        event_time = min(mention.event_time, arrival + rules.ahead_ms)
        window = Window(mention.ticker, event_time - event_time % WINDOW_MS)
        if window.start <= rules.closed_upto(watermark):
            late[window] = late.get(window, 0) + 1
        else:
            counted[window] = counted.get(window, Tally()).plus(tally_of(mention))
        watermark = max(watermark, min(event_time, arrival))
    return Folded(Progress(seen, watermark), counted, late)


def tally_of(mention: Mention) -> Tally:
    """One mention's share."""
    return Tally(
        n=1,
        negative=int(mention.label == "negative"),
        neutral=int(mention.label == "neutral"),
        positive=int(mention.label == "positive"),
        micros=round(mention.sentiment * MICROS),
    )


class Idle:
    """Which owned partitions have been silent. `now` is any clock in ms that doesn't run backwards."""

    def __init__(self, rules: Rules) -> None:
        self._after = rules.idle_ms
        self._since: dict[int, int] = {}

    def moved(self, partitions: Iterable[int], now: int) -> None:
        """These have just given records."""
        self._since.update(dict.fromkeys(partitions, now))

    def due(self, owned: Collection[int], now: int) -> list[int]:
        """Partitions silent for `idle_ms`, each named once in that time; a newly owned one is given its time first."""
        self._since = {partition: self._since.get(partition, now) for partition in owned}
        silent = [partition for partition, since in sorted(self._since.items()) if now - since >= self._after]
        self.moved(silent, now)
        return silent
