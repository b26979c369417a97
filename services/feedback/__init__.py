"""Feedback: people's words on predictions become training examples, with their lineage, or dead letters with a reason.

Rows, offsets and the examples' events commit in one effect. A feedback may overtake its prediction: while the store is
behind what `predictions` held when the feedback was looked at, the batch waits; after that an unknown prediction is
refused for good.

Of one person's words on one prediction the last counts. What is sent twice is taken once: under the same key, or,
without one, while it is still that person's last word.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from typing import Any, Final, NamedTuple

import msgspec
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from services import store
from services.runtime import Context
from services.stream import topics
from services.stream.bus import Bus, Outgoing, Record, TopicPartition
from services.stream.errors import Rejected, Transient
from services.stream.events import Example, Feedback, decode, derived_id, encode, feedback_id, in_holdout
from services.stream.loop import Answer, Hooks

GROUP: Final = "feedback"
LOOK_S: Final = 2.0
"""Longest look for records between the store's position and the goal; what isn't seen in it is asked for again."""


def serve(context: Context) -> None:
    """Run until stopped."""
    route = Route(StoreProgress(context.bus()))
    context.state = "running"
    context.loop(GROUP, topics.FEEDBACK, hooks=Hooks(after=route.committed)).sink(route)


class StoreProgress:
    """Whether the store has taken in what `predictions` held when it was first asked."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def __call__(self) -> Callable[[], bool]:
        """Fix the goal now; the answer tells whether the store has reached it."""
        ends = self._bus.ends(topics.PREDICTIONS)

        def reached() -> bool:
            done = self._bus.committed(store.GROUP, topics.PREDICTIONS)
            begins = self._bus.begins(topics.PREDICTIONS)
            start = {place: max(done.get(place, 0), begins[place]) for place in ends}
            return all(start[place] >= end for place, end in ends.items()) or not self._holds_records(start, ends)

        return reached

    def _holds_records(self, start: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]) -> bool:
        # On Kafka the distance may be all ends of transactions and aborted records, which the store never sees.
        with closing(self._bus.reader([topics.PREDICTIONS], start)) as reader:
            deadline = time.monotonic() + LOOK_S
            while any(reader.positions()[place] < end for place, end in ends.items()):
                records = reader.poll(0.2)
                if time.monotonic() > deadline or any(r.offset < ends[TopicPartition(*r[:2])] for r in records):
                    return True
        return False


class Route:
    """The step: validate, store, pass on."""

    def __init__(self, progress: Callable[[], Callable[[], bool]]) -> None:
        self._progress = progress
        self._goals: dict[str, Callable[[], bool]] = {}
        """By prediction: kept over the tries of a batch, or a busy log would move the goal from try to try."""

    def committed(self, _: Sequence[Record]) -> None:
        """The batch is decided, and what it waited for forgotten."""
        self._goals.clear()

    def __call__(self, records: Sequence[Record], cursor: Cursor) -> Sequence[Answer]:
        """One answer per record: its example, nothing for a repeat, or why it is refused."""
        given = [_decoded(record) for record in records]
        words = [feedback for feedback in given if isinstance(feedback, Feedback)]
        known = self._known(cursor, {feedback.prediction_id for feedback in words})
        said = Said(cursor, words)
        answers: list[Answer] = []
        rows: list[Feedback] = []
        for record, feedback in zip(records, given, strict=True):
            if isinstance(feedback, Rejected):
                answers.append(feedback)
                continue
            news = said.news(feedback, record)
            answer = _example(news, known.get(news.prediction_id)) if isinstance(news, Feedback) else news
            if isinstance(news, Feedback) and not isinstance(answer, Rejected):
                said.keep(news)
                rows.append(news)
            answers.append(answer)
        _insert(cursor, rows)
        return answers

    def _known(self, cursor: Cursor, ids: set[str]) -> dict[str, tuple[Any, ...]]:
        known = _predictions(cursor, ids)
        missing = sorted(ids - known.keys())
        if not missing:
            return known
        if new := [prediction_id for prediction_id in missing if prediction_id not in self._goals]:
            self._goals |= dict.fromkeys(new, self._progress())
        if not all(reached() for reached in {self._goals[prediction_id] for prediction_id in missing}):
            raise Transient(f"{len(missing)} predictions are not stored yet, such as {missing[0]}")
        # Looked up again after the goal was seen reached: the first look may have been a moment too early.
        return known | _predictions(cursor, missing)


class Said:
    """What people have said so far on the predictions of a batch, its own words included once they are kept."""

    def __init__(self, cursor: Cursor, words: Sequence[Feedback]) -> None:
        cursor.execute(
            "SELECT feedback_id, prediction_id, annotator, label FROM feedback"
            " WHERE prediction_id = ANY(%s) OR feedback_id = ANY(%s) ORDER BY position",
            ([w.prediction_id for w in words], [w.feedback_id for w in words]),
        )
        self._by_id: dict[str, _Word] = {}
        self._last: dict[tuple[str, str], str] = {}
        for name, *word in cursor.fetchall():
            self._add(name, _Word(*word))

    def keep(self, feedback: Feedback) -> None:
        """The word is taken."""
        self._add(feedback.feedback_id, _word(feedback))

    def _add(self, name: str, word: _Word) -> None:
        self._by_id[name] = word
        self._last[word.prediction_id, word.annotator] = word.label

    def news(self, feedback: Feedback, record: Record) -> Feedback | Answer:
        """The word to take, under an id of its own; nothing for a repeat, or why its id can't be used."""
        earlier = self._by_id.get(feedback.feedback_id)
        if earlier is None:
            return feedback
        if earlier != _word(feedback):
            return Rejected("key_reused", f"{feedback.feedback_id} was said before, and said something else")
        keyless = feedback.feedback_id == feedback_id(feedback.prediction_id, feedback.annotator, feedback.label)
        if not keyless or self._last[feedback.prediction_id, feedback.annotator] == feedback.label:
            return ()
        # Said again after another word: a new one, whose id is the same if the record is read twice.
        again = derived_id(feedback.feedback_id, str(record.partition), str(record.offset))
        return msgspec.structs.replace(feedback, feedback_id=again)


class _Word(NamedTuple):
    prediction_id: str
    annotator: str
    label: str


def _word(feedback: Feedback) -> _Word:
    return _Word(feedback.prediction_id, feedback.annotator, feedback.label)


def _decoded(record: Record) -> Feedback | Rejected:
    try:
        return decode(Feedback, record.value)
    except Rejected as rejected:
        return rejected


def _predictions(cursor: Cursor, ids: Collection[str]) -> dict[str, tuple[Any, ...]]:
    cursor.execute(
        "SELECT prediction_id, text_id, cluster, label, model, epoch FROM prediction WHERE prediction_id = ANY(%s)",
        (list(ids),),
    )
    return {row[0]: row for row in cursor.fetchall()}


def _example(feedback: Feedback, prediction: tuple[Any, ...] | None) -> Answer:
    if prediction is None:
        return Rejected("unknown_prediction", f"there is no prediction {feedback.prediction_id}")
    _, text_id, cluster, label, model, epoch = prediction
    if feedback.text_id != text_id:
        return Rejected("wrong_text", f"prediction {feedback.prediction_id} is not of text {feedback.text_id}")
    if (feedback.kind == "confirmation") != (feedback.label == label):
        return Rejected("contradiction", f"a {feedback.kind} as {feedback.label} of a prediction of {label}")
    holdout = in_holdout(cluster)
    example = Example(
        example_id=feedback.feedback_id,
        feedback_id=feedback.feedback_id,
        prediction_id=feedback.prediction_id,
        text_id=text_id,
        cluster=cluster,
        predicted=label,
        label=feedback.label,
        model=model,
        epoch=epoch,
        annotator=feedback.annotator,
        sampled=feedback.sampled and holdout,
        holdout=holdout,
        given=feedback.given,
    )
    return [Outgoing(topics.EXAMPLES, text_id.encode(), encode(example))]


def _insert(cursor: Cursor, rows: Sequence[Feedback]) -> None:
    if rows:
        execute_values(
            cursor,
            "INSERT INTO feedback (feedback_id, prediction_id, text_id, kind, label, annotator, sampled, given)"
            " VALUES %s ON CONFLICT DO NOTHING",
            [
                (f.feedback_id, f.prediction_id, f.text_id, f.kind, f.label, f.annotator, f.sampled, f.given)
                for f in rows
            ],
        )
