"""Which feedback changed this prediction? The corrections that its model learned from, nearest to its text first, whose
they are, and what the model before said of the same text.

Nearness is the cosine of the encoder's features: it tells which corrections look alike to the model, not which of them
moved it. What can't be told is said in `notes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
from psycopg2.extensions import cursor as Cursor

from services.lineage.learned import learned
from services.score import artifact
from services.score.base import key_of
from services.score.wire import MAX_CHARS
from services.stream.errors import Rejected
from services.stream.events import LABELS, prediction_id
from services.trainer import registry

LOOKED: Final = 1_000
"""Corrections that are compared, the newest: each is a text to embed."""
NEAREST: Final = 10
ERASED: Final = "the text was erased: what it is near to can't be told"

Probabilities = tuple[float, float, float]
Source = Literal["prediction", "shadow", "computed"]


class Correction(msgspec.Struct, frozen=True, kw_only=True):
    """An example that the model learned from and whose label isn't what had been predicted."""

    example_id: str
    text_id: str
    text: str
    predicted: str
    label: str
    model: str
    """The version that was corrected."""
    annotator: str
    """A pseudonym."""
    name: str | None
    """Who that is; null for somebody who was erased."""
    given: int
    """Ms since the epoch."""
    own: bool
    """It is of this very text or of a copy."""
    similarity: float | None = None
    """Cosine with this text, −1 to 1."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a version says of this text."""

    model: str
    label: str
    probabilities: Probabilities
    """Negative, neutral, positive."""
    source: Source
    """As it was published, as its shadow said, or computed now."""


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """Where a prediction comes from."""

    prediction_id: str
    text_id: str
    text: str | None
    """Null where it was erased."""
    epoch: int
    after: Answer
    """The prediction."""
    before: Answer | None
    """What the version that its model was trained on from says of the text."""
    change: Probabilities | None
    """After − before."""
    dataset: str
    """Hash of what the model learned from."""
    learned: int
    """Examples that it learned from, confirmations among them."""
    corrections: int
    """How many of them were corrections."""
    nearest: list[Correction]
    notes: list[str]


class Seen(NamedTuple):
    """Features float32[n, d] of texts, and the key of the encoding that made them."""

    key: str
    rows: np.ndarray


class Asked(NamedTuple):
    """What the database tells of a prediction."""

    lineage: Lineage
    """Without similarities, the newest corrections first."""
    parent: str | None

    @property
    def texts(self) -> list[str]:
        """Whose features are wanted: the prediction's, then the corrections'; none where its own was erased."""
        own = self.lineage.text
        return [] if own is None else [own[:MAX_CHARS], *(found.text for found in self.lineage.nearest)]


def ask(cursor: Cursor, identity: str) -> Asked:
    """What is known without a model.

    Raises:
        Rejected: there is no such prediction.
    """
    cursor.execute(
        "SELECT p.text_id, p.cluster, p.epoch, p.model, p.label, p.negative, p.neutral, p.positive, t.body, m.parent,"
        " coalesce(m.card->>'dataset', '') FROM prediction p LEFT JOIN text t USING (text_id)"
        " LEFT JOIN model_version m ON m.version = p.model WHERE p.prediction_id = %s",
        (identity,),
    )
    row = cursor.fetchone()
    if row is None:
        raise Rejected("unknown", f"there is no prediction {identity}; GET /v1/predictions lists them")
    text_id, cluster, epoch, model, label, *probabilities, body, parent, dataset = row
    examples = learned(cursor, model)
    corrections, erased = _corrections(cursor, examples, cluster)
    after = Answer(model=model, label=label, probabilities=_rounded(probabilities), source="prediction")
    before = _stored(cursor, text_id, parent) if parent else None
    lineage = Lineage(
        prediction_id=identity,
        text_id=text_id,
        text=body,
        epoch=epoch,
        after=after,
        before=before,
        change=_change(before, after),
        dataset=dataset,
        learned=len(examples),
        corrections=len(corrections) + erased,
        nearest=corrections[:LOOKED],
        notes=_notes(parent, len(examples), len(corrections), erased),
    )
    return Asked(lineage, parent)


def _corrections(cursor: Cursor, examples: Sequence[str], cluster: str) -> tuple[list[Correction], int]:
    """Those whose text is kept, newest first, and how many aren't."""
    cursor.execute(
        "SELECT e.example_id, e.text_id, left(t.body, %s), e.predicted, e.label, e.model, e.annotator, a.name, e.given,"
        " e.cluster = %s FROM example e LEFT JOIN text t USING (text_id)"
        " LEFT JOIN annotator a ON a.pseudonym = e.annotator"
        " WHERE e.example_id = ANY(%s) AND e.predicted <> e.label ORDER BY e.given DESC, e.example_id",
        (MAX_CHARS, cluster, list(examples)),
    )
    names = Correction.__struct_fields__[:-1]
    rows: list[tuple[Any, ...]] = cursor.fetchall()
    kept = [Correction(**dict(zip(names, row, strict=True))) for row in rows if row[2] is not None]
    return kept, len(rows) - len(kept)


def _stored(cursor: Cursor, text_id: str, version: str) -> Answer | None:
    sources: tuple[tuple[str, Source], ...] = (("prediction", "prediction"), ("shadow_prediction", "shadow"))
    for table, source in sources:
        cursor.execute(
            f"SELECT label, negative, neutral, positive FROM {table} WHERE prediction_id = %s",  # noqa: S608 (ours)
            (prediction_id(text_id, version),),
        )
        if row := cursor.fetchone():
            label, *probabilities = row
            return Answer(model=version, label=label, probabilities=_rounded(probabilities), source=source)
    return None


def _notes(parent: str | None, examples: int, corrections: int, erased: int) -> list[str]:
    said = {
        "its model was trained on from no other that is registered here": parent is None,
        "its model learned from no feedback that was given here": examples == 0,
        f"the newest {LOOKED:,} of {corrections:,} corrections were compared": corrections > LOOKED,
        f"{erased:,} corrections are of texts that were erased since": erased > 0,
    }
    return [note for note, true in said.items() if true]


def told(asked: Asked, seen: Seen | str, before: Answer | str | None) -> Lineage:
    """The whole answer, from the features of `Asked.texts` and the parent's answer; a string says why there is none."""
    lineage = asked.lineage
    notes = [*lineage.notes, *(missing for missing in (seen, before) if isinstance(missing, str))]
    nearest: list[Correction] = []
    if isinstance(seen, Seen):
        rows = seen.rows / np.maximum(np.linalg.norm(seen.rows, axis=1, keepdims=True), 1e-12)
        near = zip(lineage.nearest, (rows[1:] @ rows[0]).tolist(), strict=True)
        ranked = sorted(near, key=lambda pair: pair[1], reverse=True)[:NEAREST]
        nearest = [msgspec.structs.replace(found, similarity=round(cosine, 4)) for found, cosine in ranked]
    answer = before if isinstance(before, Answer) else None
    change = _change(answer, lineage.after)
    return msgspec.structs.replace(lineage, nearest=nearest, before=answer, change=change, notes=notes)


def parents_answer(cursor: Cursor, asked: Asked, seen: Seen | str, cache: Path) -> Answer | str | None:
    """As it is stored, or computed from the text's features; a string says why it can't be."""
    if asked.lineage.before is not None or asked.parent is None:
        return asked.lineage.before
    if isinstance(seen, str):
        return f"what {asked.parent} says of the text is not stored, and can't be computed without the text's features"
    try:
        model = artifact.load(registry.fetch(cursor, asked.parent, cache))
    except Rejected as rejected:
        return f"what {asked.parent} says of the text can't be computed: {rejected.detail}"
    if key_of(model.card.base, model.card.adapter, model.card.export) != seen.key:
        return f"what {asked.parent} says of the text is not stored, and its encoder isn't the one in use"
    found = model.head.probabilities(seen.rows[:1], model.card.temperature)[0]
    label = LABELS[int(found.argmax())]
    return Answer(model=asked.parent, label=label, probabilities=_rounded(found.tolist()), source="computed")


def _change(before: Answer | None, after: Answer) -> Probabilities | None:
    if before is None:
        return None
    return _rounded([new - old for new, old in zip(after.probabilities, before.probabilities, strict=True)])


def _rounded(probabilities: Sequence[float]) -> Probabilities:
    negative, neutral, positive = (round(float(value), 6) for value in probabilities)
    return negative, neutral, positive
