"""Feedback: people's words on predictions become training examples, with their lineage, or dead letters with a reason.

Rows, offsets and the examples' events commit in one effect. A feedback may overtake its prediction: while the store is
behind what `predictions` held when the feedback was looked at, the batch waits; after that an unknown prediction is
refused for good.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from services import store
from services.runtime import Context
from services.stream import topics
from services.stream.bus import Bus, Outgoing, Record
from services.stream.errors import Rejected, Transient
from services.stream.events import Example, Feedback, decode, encode, in_holdout
from services.stream.loop import Answer

GROUP: Final = "feedback"


def serve(context: Context) -> None:
    """Run until stopped."""
    bus = context.bus()
    context.state = "running"
    context.loop(GROUP, topics.FEEDBACK).sink(Route(StoreProgress(bus)))


class StoreProgress:
    """Whether the store has reached what `predictions` held when it was first asked."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def __call__(self) -> Callable[[], bool]:
        """Fix the goal now; the answer tells whether the store has reached it."""
        ends = self._bus.ends(topics.PREDICTIONS)

        def reached() -> bool:
            done = self._bus.committed(store.GROUP, topics.PREDICTIONS)
            return all(done.get(place, 0) >= end for place, end in ends.items())

        return reached


class Route:
    """The step: validate, store, pass on. One word per feedback id; the first holds."""

    def __init__(self, progress: Callable[[], Callable[[], bool]]) -> None:
        self._progress = progress
        self._waiting: dict[str, Callable[[], bool]] = {}

    def __call__(self, records: Sequence[Record], cursor: Cursor) -> Sequence[Answer]:
        """One answer per record: its example, nothing for a repeat, or why it is refused."""
        given = [_decoded(record) for record in records]
        known = _predictions(cursor, [f.prediction_id for f in given if isinstance(f, Feedback)])
        answers: list[Answer] = []
        rows: dict[str, Feedback] = {}
        earlier = _seen(cursor, [f.feedback_id for f in given if isinstance(f, Feedback)])
        for feedback in given:
            if isinstance(feedback, Rejected):
                answers.append(feedback)
            elif feedback.feedback_id in earlier or feedback.feedback_id in rows:
                answers.append(())
            else:
                prediction = known.get(feedback.prediction_id) or self._later(feedback.prediction_id, cursor)
                answer = _example(feedback, prediction)
                if not isinstance(answer, Rejected):
                    rows[feedback.feedback_id] = feedback
                answers.append(answer)
        _insert(cursor, list(rows.values()))
        return answers

    def _later(self, prediction_id: str, cursor: Cursor) -> tuple[Any, ...] | None:
        reached = self._waiting.get(prediction_id)
        if reached is None:
            reached = self._waiting[prediction_id] = self._progress()
        if not reached():
            raise Transient(f"prediction {prediction_id} is not stored yet")
        del self._waiting[prediction_id]
        # Looked up again after the goal was seen reached: the first look may have been a moment too early.
        return _predictions(cursor, [prediction_id]).get(prediction_id)


def _decoded(record: Record) -> Feedback | Rejected:
    try:
        return decode(Feedback, record.value)
    except Rejected as rejected:
        return rejected


def _predictions(cursor: Cursor, ids: list[str]) -> dict[str, tuple[Any, ...]]:
    cursor.execute(
        "SELECT prediction_id, text_id, cluster, label, model, epoch FROM prediction WHERE prediction_id = ANY(%s)",
        (ids,),
    )
    return {row[0]: row for row in cursor.fetchall()}


def _seen(cursor: Cursor, ids: list[str]) -> set[str]:
    cursor.execute("SELECT feedback_id FROM feedback WHERE feedback_id = ANY(%s)", (ids,))
    return {row[0] for row in cursor.fetchall()}


def _example(feedback: Feedback, prediction: tuple[Any, ...] | None) -> Answer:
    if prediction is None:
        return Rejected("unknown_prediction", f"there is no prediction {feedback.prediction_id}")
    _, text_id, cluster, label, model, epoch = prediction
    if feedback.text_id != text_id:
        return Rejected("wrong_text", f"prediction {feedback.prediction_id} is not of text {feedback.text_id}")
    if (feedback.kind == "confirmation") != (feedback.label == label):
        return Rejected("contradiction", f"a {feedback.kind} as {feedback.label} of a prediction of {label}")
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
        sampled=feedback.sampled,
        holdout=in_holdout(cluster),
        given=feedback.given,
    )
    return [Outgoing(topics.EXAMPLES, text_id.encode(), encode(example))]


def _insert(cursor: Cursor, rows: Sequence[Feedback]) -> None:
    if rows:
        execute_values(
            cursor,
            "INSERT INTO feedback (feedback_id, prediction_id, text_id, kind, label, annotator, comment, sampled,"
            " given) VALUES %s ON CONFLICT DO NOTHING",
            [
                (f.feedback_id, f.prediction_id, f.text_id, f.kind, f.label, f.annotator, f.comment, f.sampled, f.given)
                for f in rows
            ],
        )
