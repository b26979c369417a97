"""What the gateway asks of Postgres about people's words."""

from __future__ import annotations

import msgspec
from psycopg2.extensions import cursor as Cursor

from services.stream.events import FeedbackKind, Flag, Label, Standing, said

_COLUMNS = (
    "f.feedback_id, f.prediction_id, f.text_id, f.kind, f.label, f.flag, coalesce(a.name, f.annotator), f.role,"
    " f.sampled, f.given,"
    " EXISTS (SELECT 1 FROM feedback w WHERE w.withdraws = f.feedback_id), c.body"
)
_FROM = "FROM feedback f LEFT JOIN comment c USING (feedback_id) LEFT JOIN annotator a ON a.pseudonym = f.annotator"


class WordView(msgspec.Struct, frozen=True):
    """A word as it was taken; `given` is ms since the epoch."""

    feedback_id: str
    prediction_id: str
    text_id: str
    kind: FeedbackKind
    label: Label | None
    flag: Flag | None
    annotator: str
    """The name; of a person who was erased, the pseudonym that is left."""
    role: Standing
    sampled: bool
    given: int
    withdrawn: bool
    comment: str | None

    @property
    def said(self) -> str:
        """See `events.said`."""
        return said(self.kind, self.label, self.flag)


def word(cursor: Cursor, feedback_id: str) -> WordView | None:
    """One word, if stored."""
    cursor.execute(f"SELECT {_COLUMNS} {_FROM} WHERE feedback_id = %s", (feedback_id,))
    row = cursor.fetchone()
    return WordView(*row) if row else None


def on_text_of(cursor: Cursor, prediction_id: str) -> list[WordView]:
    """All words on the text of this prediction, on other models' predictions of it too, oldest first; withdrawals are
    only a mark on what they took back."""
    cursor.execute(
        f"SELECT {_COLUMNS} {_FROM} WHERE f.text_id = (SELECT text_id FROM prediction WHERE prediction_id = %s)"  # noqa: S608 (constants)
        " AND f.kind <> 'withdrawal' ORDER BY f.position",
        (prediction_id,),
    )
    return [WordView(*row) for row in cursor.fetchall()]


def newest_prediction(cursor: Cursor, text_id: str) -> str | None:
    """Id of the newest prediction of a text."""
    cursor.execute(
        "SELECT prediction_id FROM prediction WHERE text_id = %s ORDER BY epoch DESC, position DESC LIMIT 1", (text_id,)
    )
    row = cursor.fetchone()
    return str(row[0]) if row else None
