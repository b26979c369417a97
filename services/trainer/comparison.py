"""What a shadow says beside the champion, on the same texts: how often they agree, who is right by people's word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from psycopg2.extensions import cursor as Cursor

from services.stream.events import LABELS, Label
from services.trainer.accuracy import Accuracy, accuracy
from services.trainer.registry import Version

COMPARED: Final = 100_000
"""The newest of a shadow's predictions: more would say no more, and take seconds to join."""


class Judged(msgspec.Struct, frozen=True):
    """Right answers of both, on the same labelled texts."""

    champion: Accuracy
    shadow: Accuracy


class Comparison(msgspec.Struct, frozen=True):
    """A model against the champion that it shadowed."""

    n: int
    """Texts that both scored."""
    agreement: Accuracy
    labels: dict[Label, dict[Label, int]]
    """The champion's label → the shadow's → texts."""
    labelled: Judged
    """By every label that people gave: often those of the champion's mistakes, and so to its disadvantage."""
    sampled: Judged
    """By the labels of texts that were drawn at random."""


class Compared(Version, frozen=True):
    """A registered model, and how it did as a shadow; null where it never was one."""

    comparison: Comparison | None


def compared(cursor: Cursor, version: Version) -> Compared:
    """Join what a model said as a shadow, its newest `COMPARED` texts, with the champion's word and people's last."""
    cursor.execute(
        "SELECT c.label, s.label, e.label, e.sampled FROM"
        " (SELECT text_id, label, epoch FROM shadow_prediction WHERE model = %s ORDER BY position DESC LIMIT %s) s"
        # Of one text that several champions scored: the one that was in service when the shadow began.
        " JOIN LATERAL (SELECT label FROM prediction WHERE text_id = s.text_id AND epoch < s.epoch"
        " ORDER BY epoch DESC LIMIT 1) c ON true"
        " LEFT JOIN (SELECT DISTINCT ON (text_id) text_id, label, sampled FROM word"
        " ORDER BY text_id, given DESC, position DESC) e USING (text_id)",
        (version.version, COMPARED),
    )
    found = comparison(cursor.fetchall())
    return Compared(**msgspec.structs.asdict(version), comparison=found if found.n or version.shadow else None)


def comparison(rows: Sequence[tuple[Label, Label, Label | None, bool | None]]) -> Comparison:
    """Of texts by the champion's label, the shadow's, and people's with whether it was drawn at random, where given."""
    labels = {champion: dict.fromkeys(LABELS, 0) for champion in LABELS}
    for champion, shadow, _, _ in rows:
        labels[champion][shadow] += 1
    told = [(champion, shadow, label, sampled) for champion, shadow, label, sampled in rows if label is not None]
    return Comparison(
        n=len(rows),
        agreement=accuracy([champion == shadow for champion, shadow, _, _ in rows]),
        labels=labels,
        labelled=_judged([row[:3] for row in told]),
        sampled=_judged([row[:3] for row in told if row[3]]),
    )


def _judged(rows: Sequence[tuple[Label, Label, Label]]) -> Judged:
    return Judged(
        champion=accuracy([champion == label for champion, _, label in rows]),
        shadow=accuracy([shadow == label for _, shadow, label in rows]),
    )
