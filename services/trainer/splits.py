"""The border between what teaches and what measures: no story lies on both sides of it.

Who measures is decided by the hash of a text's cluster, before anyone labels it, so the holdout only grows. What is
told on both sides leaves the one that teaches, unless a run has learned it already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple, TypeVar

from psycopg2.extensions import cursor as Cursor

from services.trainer import copies
from services.trainer.dataset import Dataset, Labelled, Unlabelled

T = TypeVar("T", Labelled, Unlabelled)

COPY: Final = "copy of a measuring text"
RETOLD: Final = "told within the embargo of a measuring text"
LEARNED: Final = "measuring text whose story an earlier run has learned"


class Learned(NamedTuple):
    """A text that an earlier run has learned from."""

    text: str
    at: int


def learned(cursor: Cursor, upto: int) -> list[Learned]:
    """What the runs up to that one have learned from, where its text is still kept."""
    cursor.execute(
        "SELECT t.body, t.event_time FROM learned_text JOIN text t USING (text_id) WHERE run <= %s ORDER BY text_id",
        (upto,),
    )
    return [Learned(*row) for row in cursor.fetchall()]


def apart(data: Dataset, before: Sequence[Learned]) -> Dataset:
    """Leave out what is told on both sides. `before` is what earlier runs have learned from."""
    known = {pair.right for pair in copies.pairs(before, data.measure)}
    data = data._replace(measure=_without(data.measure, known))
    counts = Counter({LEARNED: len(known)})
    measuring = [*data.measure, *data.anchor]
    learn, replay, live = (_side(part, measuring, counts) for part in (data.learn, data.replay, data.live))
    left_out = {reason: n for reason, n in counts.items() if n}
    return data._replace(learn=learn, replay=replay, live=live, left_out={**data.left_out, **left_out})


def _side(part: list[T], measuring: Sequence[Labelled], counts: Counter[str]) -> list[T]:
    found = list(copies.pairs(part, measuring))
    copied = {pair.left for pair in found if pair.copy}
    retold = {pair.left for pair in found} - copied
    counts.update({COPY: len(copied), RETOLD: len(retold)})
    return _without(part, copied | retold)


def _without(part: Sequence[T], places: Collection[int]) -> list[T]:
    return [one for place, one in enumerate(part) if place not in places]
