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

from services.runtime import Context
from services.stream import topics
from services.stream.bus import Record
from services.stream.database import transaction
from services.stream.errors import Rejected, Transient
from services.stream.events import Example, decode
from services.stream.loop import Answer, Backoff
from services.trainer.run import train_once

GROUP: Final = "trainer"
LOOK_EVERY_S: Final = 1.0
COLUMNS: Final = Example.__struct_fields__
"""Of the table `example`."""

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
        rows.append([getattr(e, column) for column in COLUMNS])
    if rows:
        execute_values(
            cursor,
            f"INSERT INTO example ({', '.join(COLUMNS)}) VALUES %s ON CONFLICT DO NOTHING",  # noqa: S608 (our own names)
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


def waiting(context: Context) -> int:
    """Trainable examples that came since the last run that came to its end."""
    with closing(context.connect()) as connection, transaction(connection), connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM kept_word WHERE label IS NOT NULL AND NOT holdout"
            " AND position > (SELECT coalesce(max(upto), 0) FROM training_run WHERE state IN ('promoted', 'refused'))"
        )
        (count,) = cursor.fetchone() or (0,)
        return int(count)
