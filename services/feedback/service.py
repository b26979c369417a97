"""Feedback: people's words on predictions become training examples, with their lineage, or dead letters with a reason.

Rows, offsets and the examples' events commit in one effect. A feedback may overtake its prediction: while the store is
behind what `predictions` held when the feedback was looked at, the batch waits; after that an unknown prediction is
refused for good.

Of one person's words on one prediction the last counts, until it is withdrawn. What is sent twice is taken once: under
the same key, or, without one, while it is still that person's last word. Answers to gold questions measure who gave
them, and go no further. Whom to believe is `trust`'s, what a person should look at first `quarantine`'s.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from typing import Any, Final

from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from services.feedback import assess, gold
from services.feedback.progress import StoreProgress
from services.feedback.said import Said
from services.runtime import Context, now_ms
from services.stream import topics
from services.stream.bus import Outgoing, Record
from services.stream.database import transaction
from services.stream.errors import Rejected, Transient
from services.stream.events import Example, Feedback, decode, encode, in_holdout
from services.stream.loop import Answer, Hooks

GROUP: Final = "feedback"
LOOK_EVERY_S: Final = 10.0
RESTS: Final = 20
"""After each look for words to set aside, so many times as long as it took: a large history takes seconds."""

log = logging.getLogger(__name__)


def serve(context: Context) -> None:
    """Run until stopped."""
    route = Route(StoreProgress(context.bus()))
    if context.slot == 0:
        threading.Thread(target=watch, args=(context,), name="quarantine", daemon=True).start()
    context.state = "running"
    context.loop(GROUP, topics.FEEDBACK, hooks=Hooks(after=route.committed)).sink(route)


def watch(context: Context) -> None:
    """Look for words to set aside whenever there are new ones, until stopped, so that a person soon sees them."""
    seen: object = None
    rest = LOOK_EVERY_S
    while not context.stop.wait(rest):
        began = time.monotonic()
        try:
            with closing(context.connect()) as connection, transaction(connection), connection.cursor() as cursor:
                cursor.execute("SELECT (SELECT max(position) FROM example), (SELECT count(*) FROM gold_answer)")
                newest = cursor.fetchone()
                if newest != seen and assess.hold(cursor, now_ms()):
                    log.warning("words were set aside; `tickerloop quarantine list` shows them")
            seen = newest
        except Transient as error:
            log.warning("%s; trying again", error)
        except Exception:
            log.exception("the look for words to set aside failed; the trainer looks again before it learns")
        rest = max(LOOK_EVERY_S, RESTS * (time.monotonic() - began))


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
        known = self._known(cursor, {feedback.prediction_id for feedback in words} - gold.gold().keys())
        said = Said(cursor, words)
        answers: list[Answer] = []
        rows: list[Feedback] = []
        for record, feedback in zip(records, given, strict=True):
            if isinstance(feedback, Rejected):
                answers.append(feedback)
                continue
            news = said.news(feedback, record)
            answer = _example(news, known.get(news.prediction_id), said) if isinstance(news, Feedback) else news
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


def _example(feedback: Feedback, prediction: tuple[Any, ...] | None, said: Said) -> Answer:
    refused = _refused(feedback, said) if feedback.withdraws is not None else None
    if refused is not None:
        return refused
    if feedback.prediction_id in gold.gold():
        return ()
    if prediction is None:
        return Rejected("unknown_prediction", f"there is no prediction {feedback.prediction_id}")
    _, text_id, cluster, label, model, epoch = prediction
    if feedback.text_id != text_id:
        return Rejected("wrong_text", f"prediction {feedback.prediction_id} is not of text {feedback.text_id}")
    if feedback.kind in gold.LABELLED and (feedback.kind == "confirmation") != (feedback.label == label):
        return Rejected("contradiction", f"a {feedback.kind} as {feedback.label} of a prediction of {label}")
    if feedback.kind == "comment":
        return ()
    holdout = in_holdout(cluster)
    example = Example(
        example_id=feedback.feedback_id,
        feedback_id=feedback.withdraws or feedback.feedback_id,
        prediction_id=feedback.prediction_id,
        text_id=text_id,
        cluster=cluster,
        kind=feedback.kind,
        predicted=label,
        label=feedback.label,
        flag=feedback.flag,
        model=model,
        epoch=epoch,
        annotator=feedback.annotator,
        role=feedback.role,
        sampled=feedback.sampled and holdout,
        holdout=holdout,
        given=feedback.given,
    )
    return [Outgoing(topics.EXAMPLES, text_id.encode(), encode(example))]


def _refused(withdrawal: Feedback, said: Said) -> Rejected | None:
    """Why a withdrawal can't be; a text's words come in order, so that the word it takes back came before it."""
    word = said.word(withdrawal.withdraws or "")
    if word is None or word.said == "withdrawal":
        return Rejected("unknown_word", f"there is no word {withdrawal.withdraws}")
    if (word.prediction_id, word.text_id) != (withdrawal.prediction_id, withdrawal.text_id):
        return Rejected("wrong_text", f"the word {withdrawal.withdraws} is on another prediction")
    if withdrawal.role == "annotator" and word.annotator != withdrawal.annotator:
        return Rejected("not_yours", f"the word {withdrawal.withdraws} is another annotator's")
    return None


def _insert(cursor: Cursor, rows: Sequence[Feedback]) -> None:
    if not rows:
        return
    columns = (
        "feedback_id", "prediction_id", "text_id", "kind", "label", "flag", "withdraws", "annotator", "role", "sampled",
        "given",
    )  # fmt: skip
    execute_values(
        cursor,
        f"INSERT INTO feedback ({', '.join(columns)}) VALUES %s ON CONFLICT DO NOTHING",  # noqa: S608 (our own names)
        [[getattr(feedback, column) for column in columns] for feedback in rows],
    )
    gold.keep(cursor, rows)
    gold.withdraw(cursor, rows)
