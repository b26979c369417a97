"""What the queue chooses from, as the database has it: the newest predictions, what was said of them, who is asked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

from psycopg2.extensions import cursor as Cursor

from services.review.ranking import OPINIONS, Candidate, margin
from services.stream.events import in_holdout, prediction_id
from services.trainer import registry

NEWEST: Final = 5_000
"""The queue chooses among this many of the newest predictions: recent enough to matter, few enough to sort."""


class Wanted(NamedTuple):
    """Which texts; None takes all."""

    ticker: str | None = None
    language: str | None = None

    @property
    def gold(self) -> bool:
        """Whether a gold question, which is English and about any company, could be among them unnoticed."""
        return self.ticker is None and self.language in (None, "en")


class _Word(NamedTuple):
    label: str
    sampled: bool


class _Place(NamedTuple):
    place: str
    annotator: str
    busy: bool
    """Answered, or somebody holds it."""
    passed: bool


def read(cursor: Cursor, annotator: str, wanted: Wanted, now: int) -> list[Candidate]:
    """For `annotator`; of a text that was scored again, its newest prediction. Newest first."""
    rows = _newest(cursor, wanted)
    words = _words(cursor, [row[1] for row in rows])
    places = _places(cursor, [row[0] for row in rows], now)
    challenged = _challenged(cursor, [row[1] for row in rows])
    found = []
    for prediction, text, cluster, label, probabilities, tickers, source, language in rows:
        said, asked = words[text], places[prediction]
        mine = any(place.annotator == annotator and (place.busy or place.passed) for place in asked)
        others = [word.label for name, word in said.items() if name != annotator]
        found.append(
            Candidate(
                prediction_id=prediction,
                text_id=text,
                label=label,
                margin=margin(probabilities),
                slices=(*(f"ticker {t}" for t in tickers), f"source {source}", f"language {language}"),
                held=in_holdout(cluster),
                sampled=any(word.sampled for word in said.values()),
                words=tuple(word.label for word in said.values()),
                challenger=challenged.get(text),
                first=not mine and not any(place.busy for place in asked if place.place == "1"),
                another=not mine and annotator not in said and 0 < len(others) < OPINIONS,
            )
        )
    return found


def _newest(cursor: Cursor, wanted: Wanted) -> list[tuple[str, str, str, str, list[float], list[str], str, str]]:
    cursor.execute(
        "SELECT r.prediction_id, text_id, r.cluster, r.label, ARRAY[r.negative, r.neutral, r.positive], r.tickers,"
        " r.source, r.language"
        " FROM (SELECT * FROM prediction WHERE (%(tickers)s::text[] IS NULL OR tickers && %(tickers)s::text[])"
        " AND (%(language)s::text IS NULL OR language = %(language)s)"
        " ORDER BY event_time DESC, prediction_id DESC LIMIT %(most)s) r JOIN text USING (text_id)"
        " ORDER BY r.position DESC",
        {
            "tickers": [wanted.ticker, wanted.ticker.upper()] if wanted.ticker else None,
            "language": wanted.language,
            "most": NEWEST,
        },
    )
    return list({row[1]: row for row in reversed(cursor.fetchall())}.values())[::-1]


def _words(cursor: Cursor, texts: Sequence[str]) -> defaultdict[str, dict[str, _Word]]:
    """By text: each one's last word, and whether any of theirs was drawn at random."""
    found: defaultdict[str, dict[str, _Word]] = defaultdict(dict)
    cursor.execute(
        "SELECT text_id, annotator, label, sampled FROM feedback f WHERE text_id = ANY(%s) AND label IS NOT NULL"
        " AND NOT EXISTS (SELECT FROM feedback w WHERE w.withdraws = f.feedback_id) ORDER BY position",
        (list(texts),),
    )
    for text, annotator, label, sampled in cursor.fetchall():
        before = found[text].get(annotator)
        found[text][annotator] = _Word(label, sampled or (before is not None and before.sampled))
    return found


def _places(cursor: Cursor, predictions: Sequence[str], now: int) -> defaultdict[str, list[_Place]]:
    found: defaultdict[str, list[_Place]] = defaultdict(list)
    cursor.execute(
        "SELECT prediction_id, place, annotator, answered IS NOT NULL OR expires > %s, passed FROM lease"
        " WHERE prediction_id = ANY(%s)",
        (now, list(predictions)),
    )
    for prediction, *place in cursor.fetchall():
        found[prediction].append(_Place(*place))
    return found


def _challenged(cursor: Cursor, texts: Sequence[str]) -> dict[str, str]:
    """What the model that shadows the champion now says, by text."""
    shadow = registry.shadow(cursor)
    if shadow is None:
        return {}
    cursor.execute(
        "SELECT text_id, label FROM shadow_prediction WHERE prediction_id = ANY(%s)",
        ([prediction_id(text, shadow.version) for text in texts],),
    )
    return dict(cursor.fetchall())
