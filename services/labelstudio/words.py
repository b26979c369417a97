"""Annotations as feedback, accepted as the gateway accepts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
from psycopg2.extensions import cursor as Cursor

from services import annotators, keys
from services.gateway import queries
from services.gateway import words as stored_words
from services.labelstudio import Said, Unfit
from services.runtime import now_ms
from services.stream.events import Feedback, Standing, feedback_id


class Taken(NamedTuple):
    """What becomes of an import."""

    words: list[Feedback]
    known: int
    """Annotations that were taken before."""
    unfit: list[Unfit]


def taken(cursor: Cursor, said: Sequence[Said], annotator: str | None, who: Mapping[str, str]) -> Taken:
    """The words to publish; `who` names annotators by what the file calls them, `annotator` all others."""
    stored = queries.predictions_named(cursor, {word.prediction_id for word in said})
    now = now_ms()
    new: list[Feedback] = []
    standings = _standings(cursor)
    unfit: list[Unfit] = []
    known = 0
    for word in said:
        name = next((who[known_as] for known_as in word.who if known_as in who), annotator)
        pseudonym = None if name is None else annotators.pseudonym(cursor, name)
        found = _feedback(word, pseudonym, stored.get(word.prediction_id), now)
        if isinstance(found, Unfit):
            unfit.append(found)
        elif stored_words.word(cursor, found.feedback_id) is None:
            standing = standings.get(name or "", "annotator") if standings else "local"
            new.append(msgspec.structs.replace(found, role=standing))
        else:
            known += 1
    return Taken(new, known, unfit)


def _standings(cursor: Cursor) -> dict[str, Standing]:
    """By name, what the words of those who have a key count as; nobody has one where no keys are used."""
    found = [key for key in keys.every(cursor) if key.revoked is None]
    return {key.name: "operator" if key.may("operator") else "annotator" for key in found}


def _feedback(
    word: Said, name: str | None, prediction: queries.PredictionView | None, now: int
) -> Feedback | Unfit:  # fmt: skip
    if name is None:
        called = " or ".join(word.who) or "nobody"
        return Unfit(word.place, f"it is by {called}: say whose words that are, by --annotator NAME or --who WHO=NAME")
    if prediction is None:
        return Unfit(word.place, f"there is no prediction {word.prediction_id}")
    if prediction.text_id != word.text_id:
        return Unfit(word.place, f"prediction {word.prediction_id} is not of text {word.text_id}")
    return Feedback(
        feedback_id=feedback_id(word.prediction_id, name, word.label, word.key),
        prediction_id=word.prediction_id,
        text_id=word.text_id,
        kind="confirmation" if word.label == prediction.label else "correction",
        label=word.label,
        annotator=name,
        sampled=word.sampled,
        given=min(word.at or now, now),
    )
