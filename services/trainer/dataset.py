"""What a run learns from: people's labels, replayed so that nothing is forgotten, and what measures it.

Held-out clusters are never trained on; only their labels from random sampling measure, since labels that someone chose
to give are mostly the champion's mistakes; and only where trusted people gave them (`services.feedback.assess`).
`assembly` makes a dataset of what is read here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from psycopg2.extensions import cursor as Cursor

from services.feedback import assess
from services.runtime import now_ms
from services.stream.events import LABELS, in_holdout
from services.trainer.anchors import anchors

REPLAY_WEIGHT: Final = 1.0
"""Of one anchor text, against 1 of a text that a person labelled. With half as much, a champion that has learned the
anchor set's other half forgets more of it than the gate allows."""
LIVE_WEIGHT: Final = 0.1
"""Of the parent's own answer to an unlabelled live text: where people disagree with it, they should win."""
LIVE_REPLAY: Final = 500
"""Unlabelled live texts on which the parent's own answers are kept."""


class Labelled(NamedTuple):
    """A text with the label people gave it."""

    example_id: str
    text: str
    label: int
    """Index into `LABELS`."""
    sampled: bool
    """Its label may measure: drawn at random, and given by trusted people."""
    source: str = ""
    language: str = ""
    tickers: tuple[str, ...] = ()
    weight: float = 1.0
    """What it counts in training: of people's words, how far the label can be believed, under the limits of one
    annotator's share."""
    text_id: str = ""
    cluster: str = ""
    """Shared by near-duplicates; empty where it is no text of the stream."""
    at: int = 0
    """Event time in ms; 0 where there is none."""
    feedback: tuple[str, ...] = ()
    """Ids of the words that made the label."""


class Unlabelled(NamedTuple):
    """A live text on which the parent's own answer is kept."""

    text_id: str
    text: str
    cluster: str = ""
    at: int = 0
    weight: float = LIVE_WEIGHT


class Cut(NamedTuple):
    """How far the log and the tables were read: up to there, the same dataset is read again."""

    examples: Mapping[int, int]
    """By partition of `training.examples`, the offset after the last one."""
    texts: int
    """Position of the last text."""
    run: int
    """The last run before."""


class BaseFile(NamedTuple):
    """A file of the user's that is replayed."""

    name: str
    sha256: str


class Dataset(NamedTuple):
    """One run's texts. Lists are in a fixed order."""

    learn: list[Labelled]
    measure: list[Labelled]
    replay: list[Labelled]
    anchor: list[Labelled]
    live: list[Unlabelled]
    upto: int
    """Position of the last example seen."""
    cut: Cut = Cut({}, 0, 0)
    base: tuple[BaseFile, ...] = ()
    left_out: Mapping[str, int] = {}
    """By reason, texts that were read and neither teach nor measure."""


def collect(cursor: Cursor, cut: Cut | None = None) -> Dataset:
    """Read what people said so far, or up to `cut`; of each story the label that they agree on, weighed by whom to
    believe."""
    if cut is None:
        assess.hold(cursor, now_ms())
        cut = _now(cursor)
    until = {"partitions": list(cut.examples), "offsets": list(cut.examples.values()), "texts": cut.texts}
    taught = assess.taught(cursor, cut.examples)
    cursor.execute(
        "SELECT e.example_id, e.feedback_id, e.text_id, e.cluster, e.holdout, t.body, t.source, t.language,"
        " t.event_time, p.tickers FROM example e JOIN text t USING (text_id)"
        " LEFT JOIN prediction p USING (prediction_id) WHERE e.example_id = ANY(%s) ORDER BY e.text_id",
        ([*taught],),
    )
    people = [
        (
            Labelled(
                example_id=example,
                text=body,
                label=found.label,
                sampled=found.measures,
                source=source,
                language=language,
                tickers=tuple(tickers or ()),
                weight=found.weight,
                text_id=text_id,
                cluster=cluster,
                at=at,
                feedback=(feedback,),
            ),
            holdout,
        )
        for example, feedback, text_id, cluster, holdout, body, source, language, at, tickers in cursor.fetchall()
        for found in (taught[example],)
    ]
    cursor.execute(
        "SELECT coalesce(max(position), 0) FROM examples_before(%(partitions)s, %(offsets)s::bigint[])", until
    )
    (upto,) = cursor.fetchone() or (0,)
    shipped = [
        (Labelled(a.id, a.text, LABELS.index(a.label), sampled=True, weight=REPLAY_WEIGHT), a.replayed)
        for a in anchors()
    ]
    return Dataset(
        learn=[e for e, holdout in people if not holdout and e.weight],
        measure=[e for e, holdout in people if holdout and e.sampled],
        replay=[e for e, replayed in shipped if replayed],
        anchor=[e for e, replayed in shipped if not replayed],
        live=_unlabelled(cursor, until),
        upto=int(upto),
        cut=cut,
    )


def _now(cursor: Cursor) -> Cut:
    cursor.execute(
        "SELECT log_partition, max(log_offset) + 1 FROM example WHERE log_partition IS NOT NULL GROUP BY log_partition"
        " ORDER BY log_partition"
    )
    examples = dict(cursor.fetchall())
    cursor.execute(
        "SELECT (SELECT coalesce(max(position), 0) FROM text), (SELECT coalesce(max(run), 0) FROM training_run)"
    )
    texts, run = cursor.fetchone() or (0, 0)
    return Cut(examples, int(texts), int(run))


def _unlabelled(cursor: Cursor, until: Mapping[str, object]) -> list[Unlabelled]:
    # By hash of the id: a fixed pseudo-random choice that doesn't favour new or old texts.
    cursor.execute(
        "SELECT t.text_id, t.body, t.cluster, t.event_time FROM text t WHERE t.position <= %(texts)s AND NOT EXISTS"
        " (SELECT FROM examples_before(%(partitions)s, %(offsets)s::bigint[]) e WHERE e.cluster = t.cluster)"
        " ORDER BY md5(t.text_id) LIMIT %(limit)s",
        {**until, "limit": 2 * LIVE_REPLAY},
    )
    return [found for row in cursor.fetchall() if not in_holdout((found := Unlabelled(*row)).cluster)][:LIVE_REPLAY]


def one_hot(examples: Sequence[Labelled]) -> np.ndarray:
    """float32[n, 3]."""
    return np.eye(len(LABELS), dtype=np.float32)[[e.label for e in examples]]
