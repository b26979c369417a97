"""The trainer: takes the retraining queue in, and trains when enough of it has come.

Two threads: the consumer loop writes `training.examples` into rows; the other looks at the trigger and trains. Training
takes no consumer's time, so membership is kept however long it lasts.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextlib import closing
from typing import Final

from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from services.erasure import request
from services.runtime import Context
from services.stream import topics
from services.stream.bus import Record
from services.stream.database import transaction
from services.stream.errors import Misconfigured, Rejected, Transient
from services.stream.events import Example, decode
from services.stream.loop import Answer, Backoff
from services.trainer.run import train_once

GROUP: Final = "trainer"
LOOK_EVERY_S: Final = 1.0

log = logging.getLogger(__name__)


def serve(context: Context) -> None:
    """Run until stopped. A run in progress is given up: its successor starts it afresh."""
    threading.Thread(target=watch, args=(context,), name="trigger", daemon=True).start()
    context.state = "waiting"
    context.loop(GROUP, topics.EXAMPLES).sink(keep)


def keep(records: Sequence[Record], cursor: Cursor) -> Sequence[Answer]:
    """Store examples; one that was stored before changes nothing."""
    answers: list[Answer] = []
    rows = []
    for record in records:
        try:
            e = decode(Example, record.value)
        except Rejected as rejected:
            answers.append(rejected)
            continue
        answers.append(())
        rows.append(
            (
                e.example_id,
                e.feedback_id,
                e.prediction_id,
                e.text_id,
                e.cluster,
                e.predicted,
                e.label,
                e.model,
                e.epoch,
                e.annotator,
                e.sampled,
                e.holdout,
                e.given,
            )
        )
    if rows:
        execute_values(
            cursor,
            "INSERT INTO example (example_id, feedback_id, prediction_id, text_id, cluster, predicted, label, model,"
            " epoch, annotator, sampled, holdout, given) VALUES %s ON CONFLICT DO NOTHING",
            rows,
        )
    return answers


def watch(context: Context) -> None:
    """Train whenever the trigger says so, until stopped."""
    backoff = Backoff(context.stop)
    while not context.stop.wait(LOOK_EVERY_S):
        try:
            fresh = waiting(context)
            context.detail = {"examples_waiting": fresh, "retrain_after": context.settings.retrain_after}
            unlearn(context)
            if fresh >= context.settings.retrain_after:
                context.state = "training"
                train_once(context.settings, "volume", log.info)
            context.state = "waiting"
            backoff.reset()
        except Transient as error:
            log.warning("%s; trying again", error)
            backoff.wait()
        except Exception:
            log.exception("the training failed; the next trigger tries again")
            backoff.wait()


def unlearn(context: Context) -> None:
    """Make the model that erasures ask for, if any does: from a start that learned from nothing that was erased."""
    with closing(context.connect()) as connection:
        with transaction(connection), connection.cursor() as cursor:
            found = request.asked(cursor)
        if found is None:
            return
        context.state = "training"
        try:
            if found.start is None:
                raise Misconfigured("every model that the champion was trained on from has learned from it")
            outcome = train_once(context.settings, "erasure", log.info, start=found.start)
            came_of_it = f"{'promoted' if outcome.promoted else 'made'} {outcome.version}"
        except Misconfigured as error:
            came_of_it = f"failed: {error}"
        with transaction(connection), connection.cursor() as cursor:
            request.answer(cursor, found, came_of_it)


def waiting(context: Context) -> int:
    """Trainable examples that came since the last run that came to its end."""
    with closing(context.connect()) as connection, transaction(connection), connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM example WHERE NOT holdout"
            " AND position > (SELECT coalesce(max(upto), 0) FROM training_run WHERE state IN ('promoted', 'refused'))"
        )
        (count,) = cursor.fetchone() or (0,)
        return int(count)
