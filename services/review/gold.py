"""Gold questions: texts whose label is known, slipped among the others to learn whom to believe.

They are those of the shipped anchor set that are replayed in training; its other half measures what a challenger has
forgotten. A question borrows the source and the time of a text of the stream, and bears the champion's own answer.
Often one is chosen on which the champion is wrong: whoever agrees with whatever is shown would pass on the others.

The anchor set is public: somebody who studies it can tell these texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from random import Random
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from psycopg2.extensions import cursor as Cursor

from services.clean import entities
from services.review.leases import Offer
from services.score.wire import Scores
from services.stream.events import derived_id
from services.trainer.anchors import Anchor, anchors

if TYPE_CHECKING:
    from services.gateway.queries import PredictionView

NEWCOMER: Final = 20
"""Whoever answered fewer gold questions is a newcomer."""
SHARES: Final = (0.5, 0.05)
"""Of the queue: a newcomer's, and everyone else's."""
TRIED: Final = 32
"""The champion is asked about so many, for some that it gets wrong."""
WRONG: Final = 0.5
"""Share of questions on which the champion is wrong, where there are such: about as often as on what else is asked."""

EARLIER_MS: Final = 3_600_000
"""By up to so much a question is older than the text whose time it borrows."""


class Asked(NamedTuple):
    """What one person was asked so far."""

    answered: int
    anchors: frozenset[str]
    """Prediction ids of the questions that are answered or under way."""


def prediction_of(anchor: Anchor) -> str:
    """The id under which a question is answered."""
    return derived_id("gold", anchor.id)


def text_of(anchor: Anchor) -> str:
    """The id of its text."""
    return derived_id("gold-text", anchor.id)


@cache
def questions() -> dict[str, Anchor]:
    """All of them, by the id of their text."""
    return {text_of(anchor): anchor for anchor in anchors() if anchor.replayed}


def asked(cursor: Cursor, annotator: str, now: int) -> Asked:
    """What `annotator` was asked so far."""
    cursor.execute(
        "SELECT prediction_id, answered IS NOT NULL FROM lease WHERE annotator = %s AND why = 'gold'"
        " AND (answered IS NOT NULL OR passed OR expires > %s)",
        (annotator, now),
    )
    rows = cursor.fetchall()
    return Asked(sum(answered for _, answered in rows), frozenset(prediction for prediction, _ in rows))


def wanted(so_far: Asked, n: int, random: Random) -> int:
    """How many of `n` texts are questions."""
    share = SHARES[so_far.answered >= NEWCOMER]
    return sum(random.random() < share for _ in range(n))


def tried(so_far: Asked, random: Random) -> list[Anchor]:
    """Questions to choose among, none that was asked before."""
    left = [anchor for anchor in questions().values() if prediction_of(anchor) not in so_far.anchors]
    return random.sample(left, min(TRIED, len(left)))


def chosen(found: Sequence[Anchor], scores: Scores, n: int, random: Random) -> list[int]:
    """Which `n` of `found`: those that the champion gets wrong as often as `WRONG` says."""
    wrong = [i for i, anchor in enumerate(found) if scores.scores[i].label != anchor.label]
    right = [i for i, anchor in enumerate(found) if scores.scores[i].label == anchor.label]
    taken: list[int] = []
    while len(taken) < n and (wrong or right):
        taken.append((wrong if wrong and (not right or random.random() < WRONG) else right).pop())
    return taken


def borrowed(real: PredictionView, random: Random) -> dict[str, Any]:
    """Where and when a question came, as if it had come with a text of the stream."""
    earlier = random.randrange(EARLIER_MS)
    times = {"event_time": real.event_time - earlier, "scored": real.scored - earlier}
    return {"source": real.source, "language": real.language, **times}


def offer(anchor: Anchor, scores: Scores, index: int, like: dict[str, Any], table: entities.Table) -> Offer:
    """The question as a prediction like any other; `like` is what it has `borrowed`."""
    score = scores.scores[index]
    shown = like | {
        "prediction_id": prediction_of(anchor),
        "text_id": text_of(anchor),
        "cluster": text_of(anchor),
        "label": score.label,
        "probabilities": [round(p, 6) for p in score.probabilities],
        "sentiment": round(score.probabilities[2] - score.probabilities[0], 6),
        "model": scores.model,
        "epoch": scores.epoch,
        "tickers": list(entities.tickers(anchor.text, table)),
        "truncated": score.truncated,
        "abstained": score.abstained,
        "foreign": False,
    }
    return Offer("gold", prediction_of(anchor), text_of(anchor), shown=shown)


def shown(cursor: Cursor, prediction_id: str) -> dict[str, Any] | None:
    """What was shown of a question last, with its text; None where it was never asked."""
    cursor.execute(
        "SELECT shown FROM lease WHERE prediction_id = %s AND why = 'gold' ORDER BY given DESC LIMIT 1",
        (prediction_id,),
    )
    row = cursor.fetchone()
    return None if row is None else with_text(row[0])


def with_text(made_up: dict[str, Any]) -> dict[str, Any]:
    """A question as a whole prediction."""
    return made_up | {"text": questions()[made_up["text_id"]].text, "url": None}
