"""Questions whose answer is known, slipped in among the texts: the shipped anchor set. Who answers isn't told which
they are, and their answers never become examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from services.stream.events import Feedback, derived_id
from services.trainer.anchors import Anchor, anchors

LABELLED: Final = frozenset({"correction", "confirmation"})


def gold_id(anchor: str) -> str:
    """What stands for the prediction's id in a word on this question."""
    return derived_id("gold", anchor)


@cache
def gold() -> Mapping[str, Anchor]:
    """All questions, by what stands for the prediction's id."""
    return {gold_id(anchor.id): anchor for anchor in anchors()}


def keep(cursor: Cursor, words: Sequence[Feedback]) -> None:
    """Store the answers among these words; of one annotator's to one question the last counts. Other words on a
    question, such as flags, are only history."""
    rows = [
        (w.feedback_id, w.annotator, w.role, anchor.id, w.label, w.label == anchor.label, w.given)
        for w in words
        if w.kind in LABELLED and (anchor := gold().get(w.prediction_id)) is not None
    ]
    if rows:
        execute_values(
            cursor,
            'INSERT INTO gold_answer (feedback_id, annotator, role, gold, label, "right", given) VALUES %s'
            " ON CONFLICT DO NOTHING",
            rows,
        )


def withdraw(cursor: Cursor, words: Sequence[Feedback]) -> None:
    """Answers that these words take back no longer measure."""
    withdrawn = [w.withdraws for w in words if w.withdraws is not None]
    if withdrawn:
        cursor.execute("DELETE FROM gold_answer WHERE feedback_id = ANY(%s)", (withdrawn,))
