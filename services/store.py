"""The store: predictions and texts into Postgres, the account of every text, the latest per ticker into Valkey.

Rows and offsets commit together, so each event is stored and counted exactly once. What a shadow said is stored apart
and not counted: its texts are those of the champion. Valkey is written after the commit and may be lost: the gateway
falls back to Postgres.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final, TypeVar

import msgspec
import redis
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from services.erasure import rows
from services.erasure.refusal import refused_ids
from services.erasure.sweep import Sweep
from services.runtime import Context, now_ms
from services.stream import topics
from services.stream.bus import Record
from services.stream.errors import Rejected
from services.stream.events import ERASED, CleanText, Event, Prediction, RejectedText, decode
from services.stream.loop import Answer, Hooks

GROUP: Final = "store"
TOPICS: Final = (
    topics.RAW,
    topics.CLEAN,
    topics.REJECTED,
    topics.PREDICTIONS,
    topics.SHADOW,
    topics.dead(topics.RAW),
    topics.dead(topics.CLEAN),
    topics.dead(topics.REJECTED),
    topics.dead(topics.PREDICTIONS),
    topics.dead(topics.FEEDBACK),
)
MAX_RECORDS: Final = 2_000
EVERY_S: Final = 0.1
"""Nobody waits for the rows: the live stream reads the log itself."""

CACHED_S: Final = 60
"""The latest of a ticker stays in Valkey for so long: where a write was lost, the table is asked again soon."""
VALKEY_S: Final = 0.25
AWAY_S: Final = 5.0
"""How long Valkey is let be after it failed: its answer is waited for between two batches."""

_NEWER: Final = """
for i, key in ipairs(KEYS) do
  local old = redis.call('HGET', key, 'at')
  if not old or tonumber(old) <= tonumber(ARGV[2 * i - 1]) then
    redis.call('HSET', key, 'at', ARGV[2 * i - 1], 'json', ARGV[2 * i])
    redis.call('EXPIRE', key, ARGV[#ARGV])
  end
end
"""

E_ = TypeVar("E_", bound=Event)
log = logging.getLogger(__name__)


def serve(context: Context) -> None:
    """Run the store until stopped."""
    latest, sweep = Latest(context.valkey(VALKEY_S, retries=0)), Sweep(context.connect, context.bus())

    def after(records: Sequence[Record]) -> None:
        latest(records)
        sweep(records)

    context.state = "running"
    context.loop(GROUP, *TOPICS, max_records=MAX_RECORDS, every_s=EVERY_S, hooks=Hooks(after=after)).sink(store)


def store(records: Sequence[Record], cursor: Cursor) -> Sequence[Answer]:
    """Insert what the records say and count them; a record of another shape than its topic's is rejected."""
    answers: list[Answer] = [() for _ in records]
    texts = _decoded(records, topics.CLEAN, CleanText, answers)
    predictions = _decoded(records, topics.PREDICTIONS, Prediction, answers)
    shadows = _decoded(records, topics.SHADOW, Prediction, answers)
    refused = _decoded(records, topics.REJECTED, RejectedText, answers)
    erased = refused_ids(cursor, {text.text_id for text in texts})
    if erased:  # while they were under way
        rows.delete(cursor, erased)
    _insert_texts(cursor, [text for text in texts if text.text_id not in erased])
    scored = _scored_first(cursor, predictions)
    _insert_predictions(cursor, predictions)
    _insert_shadows(cursor, shadows)
    tally = Counter((record.topic, _dead_reason(record)) for record in records if record.topic not in _UNCOUNTED)
    tally.update((topics.REJECTED, event.reason) for event in refused)
    tally[topics.PREDICTIONS, ""] += scored
    _count(cursor, tally)
    return answers


_UNCOUNTED: Final = frozenset({topics.CLEAN, topics.REJECTED, topics.PREDICTIONS, topics.SHADOW})
"""Topics whose records count for nothing, or by what they say."""


def _decoded(records: Sequence[Record], topic: str, kind: type[E_], answers: list[Answer]) -> list[E_]:
    events = []
    for index, record in enumerate(records):
        if record.topic == topic:
            try:
                events.append(decode(kind, record.value))
            except Rejected as rejected:
                answers[index] = rejected if record.value != ERASED else ()
    return events


def _dead_reason(record: Record) -> str:
    """Group and reason of a dead letter; elsewhere headers are whatever a client put there, and mean nothing."""
    headers = dict(record.headers)
    if not record.topic.endswith(topics.DEAD_SUFFIX) or "reason" not in headers:
        return ""
    return f"{_word(headers.get('group', b''))}:{_word(headers['reason'])}"


def _word(header: bytes) -> str:
    return header.decode("utf-8", "replace").replace("\0", "\ufffd")


def _insert_texts(cursor: Cursor, events: Sequence[CleanText]) -> None:
    execute_values(
        cursor,
        "INSERT INTO text (text_id, cluster, body, source, external_id, url, language, marks, event_time, received)"
        " VALUES %s ON CONFLICT DO NOTHING",
        [
            (
                e.text_id,
                e.cluster,
                e.text,
                e.source,
                e.external_id,
                e.url,
                e.language,
                list(e.marks),
                e.event_time,
                e.received,
            )
            for e in events
        ],
        template="(%s, %s, %s, %s, %s, %s, %s, %s::text[], %s, %s)",
        page_size=1_000,
    ) if events else None


def _scored_first(cursor: Cursor, events: Sequence[Prediction]) -> int:
    """How many texts have their first prediction here: a replay, with this model or another, adds none.

    A text's predictions lie in one partition, so that nobody else stores one meanwhile.
    """
    texts = {event.text_id for event in events}
    cursor.execute("SELECT count(DISTINCT text_id) FROM prediction WHERE text_id = ANY(%s)", (list(texts),))
    (before,) = cursor.fetchone() or (0,)
    return len(texts) - int(before)


def _insert_predictions(cursor: Cursor, events: Sequence[Prediction]) -> None:
    execute_values(
        cursor,
        "INSERT INTO prediction (prediction_id, text_id, cluster, label, negative, neutral, positive, model, epoch,"
        " tickers, source, language, event_time, scored, truncated, abstained, origin_partition, origin_offset)"
        " VALUES %s ON CONFLICT DO NOTHING",
        [
            (
                e.prediction_id,
                e.text_id,
                e.cluster,
                e.label,
                *e.probabilities,
                e.model,
                e.epoch,
                list(e.tickers),
                e.source,
                e.language,
                e.event_time,
                e.scored,
                e.truncated,
                e.abstained,
                e.origin.partition,
                e.origin.offset,
            )
            for e in events
        ],
        template="(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s::text[], %s, %s, %s, %s, %s, %s, %s, %s)",
        page_size=1_000,
    ) if events else None


def _insert_shadows(cursor: Cursor, events: Sequence[Prediction]) -> None:
    execute_values(
        cursor,
        "INSERT INTO shadow_prediction (prediction_id, text_id, label, negative, neutral, positive, model, epoch,"
        " scored) VALUES %s ON CONFLICT DO NOTHING",
        [(e.prediction_id, e.text_id, e.label, *e.probabilities, e.model, e.epoch, e.scored) for e in events],
        page_size=1_000,
    ) if events else None


def _count(cursor: Cursor, tally: Counter[tuple[str, str]]) -> None:
    # Sorted: two stores that count the same rows must lock them in one order.
    rows = [(topic, reason, n) for (topic, reason), n in sorted(tally.items()) if n]
    if rows:
        execute_values(
            cursor,
            "INSERT INTO tally (topic, reason, n) VALUES %s"
            " ON CONFLICT (topic, reason) DO UPDATE SET n = tally.n + excluded.n",
            rows,
        )


class Latest:
    """Writes the newest sentiment of each ticker, by event time, to Valkey: hash `latest:<ticker>`, field `json`.

    Only what is about as young as an entry lives: an older event might be written where a newer one's has run out.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._script = client.register_script(_NEWER)
        self._away_until = 0.0

    def __call__(self, records: Sequence[Record]) -> None:
        """Called after the commit; a lost Valkey is noted and passed over."""
        if time.monotonic() < self._away_until:
            return
        oldest = now_ms() - CACHED_S * 1000
        newest: dict[str, Prediction] = {}
        for record in records:
            if record.topic == topics.PREDICTIONS:
                try:
                    event = decode(Prediction, record.value)
                except Rejected:
                    continue
                for ticker in event.tickers if event.event_time >= oldest else ():
                    if ticker not in newest or newest[ticker].event_time <= event.event_time:
                        newest[ticker] = event
        if not newest:
            return
        arguments = [part for event in newest.values() for part in (event.event_time, _latest(event))]
        try:
            self._script(keys=[f"latest:{ticker}" for ticker in newest], args=[*arguments, CACHED_S])
        except redis.exceptions.RedisError as error:
            self._away_until = time.monotonic() + AWAY_S
            log.warning("the latest sentiments could not be cached: %s", error)


def _latest(event: Prediction) -> bytes:
    return msgspec.json.encode(
        {
            "prediction_id": event.prediction_id,
            "label": event.label,
            "sentiment": event.sentiment,
            "event_time": event.event_time,
            "model": event.model,
            "epoch": event.epoch,
        }
    )
