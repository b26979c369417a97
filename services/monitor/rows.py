"""The monitor's rows: counts, late mentions and the progress of each source partition, moved by one transaction.

Counts are added, never overwritten, and only in the transaction that moves `monitor_partition.seen` past the records
they come from, under that row's lock. So a record counts once, whoever brings it and however often: a redo after a
crash, a replay, or a worker that has lost its partition unawares.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from psycopg2.extensions import cursor as Cursor

from services.monitor.windows import Folded, Progress, Rules, Sighting, Tally, Window, fold
from services.stream.bus import Record
from services.stream.errors import Rejected
from services.stream.events import Mention, decode
from services.stream.loop import Answer

MAX_TICKER_CHARS: Final = 100
"""Tickers are a key: PostgreSQL's indexes take 2,700 bytes."""

_PROGRESS = "SELECT partition, seen, watermark FROM monitor_partition WHERE source = %s AND partition = ANY(%s)"
# A row first, so that there is something to lock; partitions in one order, so that two workers can't deadlock.
_NEW = """
INSERT INTO monitor_partition (source, partition, seen, watermark)
SELECT %s, v, -1, 0 FROM unnest(%s::int[]) AS v ORDER BY v ON CONFLICT DO NOTHING
"""
_MOVE = "UPDATE monitor_partition SET seen = %s, watermark = %s WHERE source = %s AND partition = %s"

_ADD = """
INSERT INTO window_minute AS w
    (ticker, start, partition, n, negative, neutral, positive, micros, sentiment, closed, revision)
SELECT v.*, v.micros / (1e6::float8 * v.n), false, 2 * v.n
FROM unnest(%s::text[], %s::bigint[], %s::int[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
     AS v (ticker, start, partition, n, negative, neutral, positive, micros)
ORDER BY v.ticker, v.start
ON CONFLICT (ticker, start) DO UPDATE SET
    partition = excluded.partition, n = w.n + excluded.n, negative = w.negative + excluded.negative,
    neutral = w.neutral + excluded.neutral, positive = w.positive + excluded.positive,
    micros = w.micros + excluded.micros, closed = false, revision = 2 * (w.n + excluded.n),
    sentiment = (w.micros + excluded.micros) / (1e6::float8 * (w.n + excluded.n))
"""
_ADD_LATE = """
INSERT INTO late_mention AS l (ticker, start, n)
SELECT * FROM unnest(%s::text[], %s::bigint[], %s::bigint[]) AS v (ticker, start, n) ORDER BY v.ticker, v.start
ON CONFLICT (ticker, start) DO UPDATE SET n = l.n + excluded.n
"""
_CLOSE = """
UPDATE window_minute SET closed = true, revision = 2 * n + 1
WHERE partition = ANY(%s) AND NOT closed AND start <= %s
"""


def count(records: Sequence[Record], cursor: Cursor, source: str, rules: Rules) -> list[Answer]:
    """Count records of `source`, of any partitions, each partition's in offset order; one answer per record."""
    partitions = sorted({record.partition for record in records})
    progress = _locked(cursor, source, partitions)
    mentions = [mention_of(record) for record in records]
    sightings: dict[int, list[Sighting]] = {partition: [] for partition in partitions}
    for record, mention in zip(records, mentions, strict=True):
        known = mention if isinstance(mention, Mention) else None
        sightings[record.partition].append(Sighting(record.offset, record.timestamp, known))
    for partition in partitions:
        folded = fold(progress[partition], sightings[partition], rules)
        _add(cursor, partition, folded)
        cursor.execute(_MOVE, (folded.progress.seen, folded.progress.watermark, source, partition))
        cursor.execute(_CLOSE, ([partition], rules.closed_upto(folded.progress.watermark)))
    return [mention if isinstance(mention, Rejected) else () for mention in mentions]


def pass_over(record: Record, cursor: Cursor, source: str) -> None:
    """Move past a record without counting it: it breaks `count`."""
    (progress,) = _locked(cursor, source, [record.partition]).values()
    cursor.execute(_MOVE, (max(progress.seen, record.offset), progress.watermark, source, record.partition))


def mention_of(record: Record) -> Mention | Rejected:
    """The mention, or why it is none: a key other than the ticker would count a ticker on two partitions."""
    try:
        mention = decode(Mention, record.value)
    except Rejected as rejected:
        return rejected
    if "\0" in mention.ticker or not 0 < len(mention.ticker) <= MAX_TICKER_CHARS:
        return Rejected("invalid", f"a ticker is 1 to {MAX_TICKER_CHARS} characters, none of them NUL")
    if record.key != mention.ticker.encode():
        return Rejected("key", f"{record.key[:100]!r} is not the ticker {mention.ticker[:100]!r}")
    return mention


def close_idle(cursor: Cursor, partitions: Iterable[int], now: int, rules: Rules) -> int:
    """Close what the wall clock `now` has left behind on silent partitions; how many windows."""
    cursor.execute(_CLOSE, (list(partitions), rules.closed_upto(now)))
    return cursor.rowcount


def seen(cursor: Cursor, source: str, partitions: Sequence[int]) -> dict[int, int]:
    """The last counted offset of each partition that has one."""
    return {partition: progress.seen for partition, progress in _read(cursor, source, partitions, "").items()}


def _locked(cursor: Cursor, source: str, partitions: Sequence[int]) -> dict[int, Progress]:
    lock = " ORDER BY partition FOR UPDATE"
    found = _read(cursor, source, partitions, lock)
    if len(found) < len(partitions):
        cursor.execute(_NEW, (source, list(partitions)))
        found = _read(cursor, source, partitions, lock)
    return found


def _read(cursor: Cursor, source: str, partitions: Sequence[int], lock: str) -> dict[int, Progress]:
    cursor.execute(_PROGRESS + lock, (source, list(partitions)))
    return {partition: Progress(last, watermark) for partition, last, watermark in cursor.fetchall()}


def _add(cursor: Cursor, partition: int, folded: Folded) -> None:
    if folded.counted:
        tickers, starts = _columns(folded.counted)
        sums = [list(column) for column in zip(*folded.counted.values(), strict=True)]
        cursor.execute(_ADD, (tickers, starts, [partition] * len(tickers), *sums))
    if folded.late:
        cursor.execute(_ADD_LATE, (*_columns(folded.late), list(folded.late.values())))


def _columns(windows: Mapping[Window, Tally] | Mapping[Window, int]) -> tuple[list[str], list[int]]:
    return [window.ticker for window in windows], [window.start for window in windows]
