"""What people have said so far on the predictions of a batch: which of its words are news, and which can be taken
back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from psycopg2.extensions import cursor as Cursor

from services.stream.bus import Record
from services.stream.errors import Rejected
from services.stream.events import Feedback, derived_id, feedback_id, said
from services.stream.loop import Answer


class Word(NamedTuple):
    """A word that was taken."""

    prediction_id: str
    text_id: str
    annotator: str
    said: str
    labels: bool
    """It is a label, of which an annotator's last on a prediction counts; flags and comments stand beside each
    other."""

    @property
    def place(self) -> tuple[str, str, str]:
        """Words in one place follow each other."""
        return self.prediction_id, self.annotator, "label" if self.labels else self.said


class Said:
    """The words there are, a batch's own included once they are kept."""

    def __init__(self, cursor: Cursor, words: Sequence[Feedback]) -> None:
        cursor.execute(
            "SELECT feedback_id, kind, label, flag, withdraws, prediction_id, text_id, annotator FROM feedback"
            " WHERE prediction_id = ANY(%s) OR feedback_id = ANY(%s) ORDER BY position",
            (
                [w.prediction_id for w in words],
                [name for w in words for name in (w.feedback_id, w.withdraws) if name is not None],
            ),
        )
        self._by_id: dict[str, Word] = {}
        self._last: dict[tuple[str, str, str], str] = {}
        for name, kind, label, flag, withdraws, *of in cursor.fetchall():
            self._add(name, Word(of[0], of[1], of[2], said(kind, label, flag), label is not None), withdraws)

    def keep(self, feedback: Feedback) -> None:
        """The word is taken."""
        self._add(feedback.feedback_id, _word(feedback), feedback.withdraws)

    def _add(self, name: str, word: Word, withdraws: str | None) -> None:
        self._by_id[name] = word
        if withdraws is None:
            self._last[word.place] = name
            return
        withdrawn = self._by_id.get(withdraws)
        if withdrawn is not None and self._last.get(withdrawn.place) == withdraws:
            del self._last[withdrawn.place]

    def word(self, name: str) -> Word | None:
        """The word of this id, withdrawn or not."""
        return self._by_id.get(name)

    def news(self, feedback: Feedback, record: Record) -> Feedback | Answer:
        """The word to take, under an id of its own; nothing for a repeat, or why its id can't be used."""
        earlier = self._by_id.get(feedback.feedback_id)
        if earlier is None:
            return feedback
        if feedback.kind == "withdrawal" and earlier.said == "withdrawal":
            return ()
        word = _word(feedback)
        if earlier != word:
            return Rejected("key_reused", f"{feedback.feedback_id} was said before, and said something else")
        keyless = feedback.feedback_id == feedback_id(feedback.prediction_id, feedback.annotator, feedback.said)
        last = self._last.get(word.place)
        if not keyless or (last is not None and self._by_id[last].said == feedback.said):
            return ()
        # Said again after another word, or after it was withdrawn: a new one, whose id is the same if read twice.
        again = derived_id(feedback.feedback_id, str(record.partition), str(record.offset))
        return msgspec.structs.replace(feedback, feedback_id=again)


def _word(feedback: Feedback) -> Word:
    labels = feedback.label is not None
    return Word(feedback.prediction_id, feedback.text_id, feedback.annotator, feedback.said, labels)
