"""Rows as the services leave them, and datasets made by hand."""

from __future__ import annotations

from itertools import count
from typing import Any

from psycopg2.extensions import cursor as Cursor

from services.stream.events import Label, in_holdout
from services.trainer.dataset import Dataset, Labelled, Unlabelled

HELD = [name for name in (f"h{n}" for n in range(200)) if in_holdout(name)]
FREE = [name for name in (f"f{n}" for n in range(200)) if not in_holdout(name)]
"""Clusters on the two sides of the border."""
WORDS = ("barley", "copper", "freight", "naphtha", "bonds", "shares", "gold", "zinc", "wheat", "soy", "oil", "gas")


def words(number: int) -> str:
    """A text that resembles no other."""
    return " ".join(f"{word}{number * 31 % (7 + place)}x{number}" for place, word in enumerate(WORDS[:6]))


def text(
    cursor: Cursor, text_id: str, body: str, *, cluster: str | None = None, at: int = 1, source: str = "wire"
) -> None:
    cursor.execute(
        "INSERT INTO text (text_id, cluster, body, source, language, marks, event_time, received)"
        " VALUES (%s, %s, %s, %s, 'en', '{}', %s, 0)",
        (text_id, cluster or text_id, body, source, at),
    )


def said(
    cursor: Cursor, text_id: str, label: Label = "positive", *, sampled: bool | None = None, given: int = 1
) -> None:
    """One reader's word on a text that is there; of a held-out text from the random share."""
    holdout = in_holdout(text_id)
    cursor.execute("SELECT count(*) FROM example")
    name = f"e{cursor.fetchone()}"
    cursor.execute(
        "INSERT INTO example (example_id, feedback_id, prediction_id, text_id, cluster, predicted, label, model, epoch,"
        " annotator, sampled, holdout, given) VALUES (%s, %s, 'p', %s, %s, 'neutral', %s, 'm', 1, 'ana', %s, %s, %s)",
        (name, f"w-{name}", text_id, text_id, label, holdout if sampled is None else sampled, holdout, given),
    )


_numbers = count()


def labelled(cluster: str, **changes: Any) -> Labelled:
    """An example of a text of its own."""
    made = Labelled(f"e-{cluster}", words(next(_numbers)), 1, True, text_id=cluster, cluster=cluster)
    return made._replace(**changes)


def unlabelled(cluster: str, **changes: Any) -> Unlabelled:
    return Unlabelled(cluster, words(next(_numbers)), cluster)._replace(**changes)


def dataset(**parts: Any) -> Dataset:
    return Dataset(**{"learn": [], "measure": [], "replay": [], "anchor": [], "live": [], "upto": 0} | parts)
