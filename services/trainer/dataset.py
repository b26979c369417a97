"""What a run learns from: people's labels, replayed so that nothing is forgotten, and what measures it.

Held-out clusters are never trained on; only their labels from random sampling measure, since labels that someone chose
to give are mostly the champion's mistakes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from psycopg2.extensions import cursor as Cursor

from services.stream.events import LABELS, in_holdout
from services.trainer.anchors import anchors

LIVE_REPLAY: Final = 500
"""Unlabelled live texts on which the parent's own answers are kept."""


class Labelled(NamedTuple):
    """A text with the label people gave it."""

    example_id: str
    text: str
    label: int
    """Index into `LABELS`."""
    sampled: bool
    source: str = ""
    language: str = ""
    tickers: tuple[str, ...] = ()


class Dataset(NamedTuple):
    """One run's texts. Lists are in a fixed order, so that equal content gives an equal `digest`."""

    learn: list[Labelled]
    measure: list[Labelled]
    replay: list[Labelled]
    anchor: list[Labelled]
    live: list[str]
    upto: int
    """Position of the last example seen."""

    @property
    def digest(self) -> str:
        """SHA-256 over the ids and labels of what is learned and measured."""
        content = repr([(e.example_id, e.label) for part in self[:4] for e in part] + sorted(self.live))
        return hashlib.sha256(content.encode()).hexdigest()


def collect(cursor: Cursor) -> Dataset:
    """Read the examples so far; of several words on one text the last counts. Not those of texts and of annotators that
    were erased."""
    cursor.execute(
        "SELECT DISTINCT ON (e.text_id) e.example_id, t.body, e.label, e.sampled, t.source, t.language, p.tickers,"
        " e.holdout FROM example e JOIN text t USING (text_id) LEFT JOIN prediction p USING (prediction_id)"
        " WHERE e.annotator NOT IN (SELECT unnest(subjects) FROM erasure WHERE kind = 'annotator')"
        " ORDER BY e.text_id, e.given DESC, e.position DESC"
    )
    people = [
        (Labelled(example, body, LABELS.index(label), sampled, source, language, tuple(tickers or ())), holdout)
        for example, body, label, sampled, source, language, tickers, holdout in cursor.fetchall()
    ]
    cursor.execute("SELECT coalesce(max(position), 0) FROM example")
    (upto,) = cursor.fetchone() or (0,)
    shipped = [(Labelled(a.id, a.text, LABELS.index(a.label), True), a.replayed) for a in anchors()]
    return Dataset(
        learn=[e for e, holdout in people if not holdout],
        measure=[e for e, holdout in people if holdout and e.sampled],
        replay=[e for e, replayed in shipped if replayed],
        anchor=[e for e, replayed in shipped if not replayed],
        live=_unlabelled(cursor),
        upto=int(upto),
    )


def _unlabelled(cursor: Cursor) -> list[str]:
    # By hash of the id: a fixed pseudo-random choice that doesn't favour new or old texts.
    cursor.execute(
        "SELECT t.cluster, t.body FROM text t WHERE NOT EXISTS (SELECT 1 FROM example e WHERE e.cluster = t.cluster)"
        " ORDER BY md5(t.text_id) LIMIT %s",
        (2 * LIVE_REPLAY,),
    )
    return [body for cluster, body in cursor.fetchall() if not in_holdout(cluster)][:LIVE_REPLAY]


def one_hot(examples: Sequence[Labelled]) -> np.ndarray:
    """float32[n, 3]."""
    return np.eye(len(LABELS), dtype=np.float32)[[e.label for e in examples]]
