"""What the gateway asks of Postgres. Each function takes a cursor and is safe to run again."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection
from typing import Any, Final, NamedTuple

import msgspec
from psycopg2.extensions import cursor as Cursor

from services.gateway.problems import invalid
from services.review import gold
from services.runtime import now_ms
from services.status import ALIVE_MS
from services.stream.events import Feedback

MINUTE_MS: Final = 60_000
DAY_MS: Final = 24 * 60 * MINUTE_MS

_COLUMNS: Final = (
    "p.prediction_id, p.text_id, p.cluster, p.label, ARRAY[p.negative, p.neutral, p.positive], p.model, p.epoch,"
    " p.tickers, p.source, p.language, p.event_time, p.scored, p.truncated, p.abstained,"
    " coalesce(jsonb_array_length(m.card->'languages') > 0 AND NOT m.card->'languages' ? p.language, false),"
    " t.body, t.url, t.external_id"
)
_NAMES: Final = (
    "prediction_id", "text_id", "cluster", "label", "probabilities", "model", "epoch",
    "tickers", "source", "language", "event_time", "scored", "truncated", "abstained", "foreign", "text", "url",
    "external_id",
)  # fmt: skip
_FROM: Final = "FROM prediction p LEFT JOIN text t USING (text_id) LEFT JOIN model_version m ON m.version = p.model"


class PredictionView(msgspec.Struct, frozen=True, kw_only=True):
    """A stored prediction; `text` is null where the text was erased. Times are ms since the epoch, UTC."""

    prediction_id: str
    text_id: str
    cluster: str
    label: str
    probabilities: tuple[float, float, float]
    """Negative, neutral, positive."""
    sentiment: float
    """P(positive) − P(negative)."""
    model: str
    epoch: int
    tickers: list[str]
    source: str
    language: str
    event_time: int
    scored: int
    truncated: bool
    abstained: bool
    """The greatest probability is below the model's threshold; the label is the likeliest all the same."""
    foreign: bool
    """The text is in a language that the model isn't meant for."""
    text: str | None
    url: str | None
    external_id: str | None = None
    """The source's own id; not on the live stream."""


class Window(msgspec.Struct, frozen=True):
    """One ticker's minute from `start` on; `sentiment` is the mean of P(positive) − P(negative)."""

    start: int
    n: int
    negative: int
    neutral: int
    positive: int
    sentiment: float
    closed: bool
    revision: int


class Latest(msgspec.Struct, frozen=True):
    """The newest sentiment of one ticker, by event time."""

    prediction_id: str
    label: str
    sentiment: float
    event_time: int
    model: str
    epoch: int


class Filter(NamedTuple):
    """Which predictions; None takes all. `before` is a page's cursor."""

    ticker: str | None = None
    source: str | None = None
    label: str | None = None
    text_id: str | None = None
    start: int | None = None
    end: int | None = None
    before: tuple[int, str] | None = None


def encode_cursor(view: PredictionView) -> str:
    """Where the next page starts: after `view`, in the order (event time, id)."""
    return base64.urlsafe_b64encode(msgspec.json.encode((view.event_time, view.prediction_id))).decode().rstrip("=")


def decode_cursor(cursor: str) -> tuple[int, str]:
    """The inverse of `encode_cursor`.

    Raises:
        Problem: 400, it isn't one of ours.
    """
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(raw, type=tuple[int, str])
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise invalid("cursor", "not a cursor of this listing; take `next` of the page before", "query") from None


def prediction(cursor: Cursor, prediction_id: str) -> PredictionView | None:
    """One prediction, if stored; a gold question that somebody was asked looks like one."""
    stored = predictions_named(cursor, [prediction_id]).get(prediction_id)
    return stored or question(gold.shown(cursor, prediction_id))


def predictions(cursor: Cursor, wanted: Filter, limit: int) -> list[PredictionView]:
    """Newest first by (event time, id), by keyset: rows that arrive meanwhile can't shift what is left to read."""
    conditions = {
        "p.tickers && %s": [wanted.ticker, wanted.ticker.upper()] if wanted.ticker else None,
        "p.source = %s": wanted.source,
        "p.label = %s": wanted.label,
        "p.text_id = %s": wanted.text_id,
        "p.event_time >= %s": wanted.start,
        "p.event_time < %s": wanted.end,
        "(p.event_time, p.prediction_id) < %s": wanted.before,
    }
    chosen = {condition: value for condition, value in conditions.items() if value is not None}
    where = " AND ".join(chosen) or "true"
    cursor.execute(
        f"SELECT {_COLUMNS} {_FROM} WHERE {where} ORDER BY p.event_time DESC, p.prediction_id DESC LIMIT %s",
        (*chosen.values(), limit),
    )
    return [_view(row) for row in cursor.fetchall()]


def predictions_named(cursor: Cursor, ids: Collection[str]) -> dict[str, PredictionView]:
    """Those of `ids` that are stored, by id."""
    cursor.execute(f"SELECT {_COLUMNS} {_FROM} WHERE p.prediction_id = ANY(%s)", (list(ids),))
    return {view.prediction_id: view for view in map(_view, cursor.fetchall())}


def keep_comment(cursor: Cursor, word: Feedback, body: str) -> None:
    """Keep what was written beside a word; the last of it."""
    cursor.execute(
        "INSERT INTO comment (feedback_id, body, text_id, annotator) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT (feedback_id) DO UPDATE SET body = excluded.body",
        (word.feedback_id, body, word.text_id, word.annotator),
    )


def question(shown: dict[str, Any] | None) -> PredictionView | None:
    """A gold question as what it looks like."""
    return None if shown is None else msgspec.convert(shown, PredictionView)


def latest(cursor: Cursor, ticker: str) -> Latest | None:
    """The newest prediction that mentions `ticker`."""
    found = predictions(cursor, Filter(ticker=ticker), 1)
    if not found:
        return None
    view = found[0]
    return Latest(view.prediction_id, view.label, view.sentiment, view.event_time, view.model, view.epoch)


def windows(cursor: Cursor, ticker: str, start: int, end: int, limit: int) -> list[Window]:
    """Minutes of `ticker` that begin in [start, end), oldest first."""
    cursor.execute(
        "SELECT start, n, negative, neutral, positive, sentiment, closed, revision FROM window_minute"
        " WHERE ticker = ANY(%s) AND start >= %s AND start < %s ORDER BY start LIMIT %s",
        ([ticker, ticker.upper()], start, end, limit),
    )
    return [Window(*row) for row in cursor.fetchall()]


def scorers(cursor: Cursor) -> list[str]:
    """Addresses of the live score workers."""
    cursor.execute(
        "SELECT address FROM service WHERE name = 'score' AND address IS NOT NULL AND beat > %s ORDER BY slot",
        (now_ms() - ALIVE_MS,),
    )
    return [address for (address,) in cursor.fetchall()]


def bodies(cursor: Cursor, text_ids: list[str], most_chars: int) -> dict[str, tuple[str, str | None]]:
    """The beginnings and addresses of these texts, where still kept."""
    cursor.execute("SELECT text_id, left(body, %s), url FROM text WHERE text_id = ANY(%s)", (most_chars, text_ids))
    return {identity: (body, url) for identity, body, url in cursor.fetchall()}


def _view(row: tuple[Any, ...]) -> PredictionView:
    negative, neutral, positive = (round(value, 6) for value in row[4])
    return PredictionView(
        **dict(zip(_NAMES, row, strict=True)) | {"probabilities": (negative, neutral, positive)},
        sentiment=round(positive - negative, 6),
    )
