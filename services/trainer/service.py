"""The trainer: takes the retraining queue in, and trains when a trigger asks for it.

Three threads: the consumer loop writes `training.examples` into rows; another looks at the triggers and has a child
process train; the third leads what passed the gate into service, and back (`rollout`). Training takes no consumer's
time, so membership is kept however long it lasts.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Final

from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from services.erasure import request
from services.runtime import Context
from services.stream import topics
from services.stream.bus import Record
from services.stream.database import transaction
from services.stream.errors import Rejected, Transient
from services.stream.events import Example, decode
from services.stream.loop import Answer, Backoff
from services.trainer import beside, evaluations, observed, registry, rollout, standing, triggers
from services.trainer.evaluations import Evaluation

GROUP: Final = "trainer"
LOOK_EVERY_S: Final = 1.0
COLUMNS: Final = Example.__struct_fields__
"""Of the table `example`, beside where the example lies in the log."""
EVALUATE_EVERY_S: Final = 10.0
"""How often the triggers are evaluated while no label comes; each new one has them evaluated at the next look."""

log = logging.getLogger(__name__)


def serve(context: Context) -> None:
    """Run until stopped. A run in progress is given up: its successor goes on from its checkpoint."""
    threading.Thread(target=watch, args=(context,), name="trigger", daemon=True).start()
    threading.Thread(target=rollout.follow, args=(context,), name="rollout", daemon=True).start()
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
        rows.append([*(getattr(e, column) for column in COLUMNS), record.partition, record.offset])
    if rows:
        columns = ", ".join((*COLUMNS, "log_partition", "log_offset"))
        execute_values(
            cursor,
            f"INSERT INTO example ({columns}) VALUES %s ON CONFLICT DO NOTHING",  # noqa: S608 (our own names)
            rows,
        )
    return answers


def watch(context: Context) -> None:
    """Train whenever a trigger says so, until stopped."""
    backoff = Backoff(context.stop)
    seen, due = -1, 0.0
    while not context.stop.wait(LOOK_EVERY_S):
        try:
            fresh = waiting(context)
            context.detail = {"examples_waiting": fresh, "retrain_after": context.settings.retrain_after}
            if not under_way(context):
                unlearn(context)
            if not under_way(context) and (fresh != seen or time.monotonic() >= due):
                seen, due = fresh, time.monotonic() + EVALUATE_EVERY_S
                found = evaluate(context)
                if found.train:
                    context.state = "training"
                    if not beside.train(context, found.trigger):
                        log.error("the training failed, for the reason above; the next trigger tries again")
                        backoff.wait()
                        continue
            context.state = "waiting"
            backoff.reset()
        except Transient as error:
            log.warning("%s; trying again", error)
            backoff.wait()
        except Exception:
            log.exception("looking at the trigger failed; trying again")
            backoff.wait()


def under_way(context: Context) -> bool:
    """A challenger is on its way into service; until that is decided there is nothing to train against."""
    with closing(context.connect()) as connection, transaction(connection), connection.cursor() as cursor:
        return standing.candidate(registry.ledger(cursor)) is not None


def unlearn(context: Context) -> None:
    """Make the model that erasures ask for, if any does: from a start that learned from nothing that was erased."""
    with closing(context.connect()) as connection:
        with transaction(connection), connection.cursor() as cursor:
            found = request.asked(cursor)
        if found is None:
            return
        if found.start is None:
            came_of_it = "failed: every model that the champion was trained on from has learned from it"
        else:
            context.state = "training"
            done = beside.train(context, "erasure", found.start)
            if context.stop.is_set():
                return
            came_of_it = _came_of(connection) if done else "failed: the trainer's log says why"
        with transaction(connection), connection.cursor() as cursor:
            request.answer(cursor, found, came_of_it)


def _came_of(connection: Connection) -> str:
    with transaction(connection), connection.cursor() as cursor:
        cursor.execute("SELECT state, detail->>'version' FROM training_run WHERE trigger = 'erasure' ORDER BY run DESC")
        state, version = cursor.fetchone() or ("failed", "")
    return f"{'promoted' if state == 'promoted' else 'made'} {version}"


def waiting(context: Context) -> int:
    """Trainable examples that came since the last run that came to its end."""
    with closing(context.connect()) as connection, transaction(connection), connection.cursor() as cursor:
        return observed.fresh(cursor)


def evaluate(context: Context) -> Evaluation:
    """Look at the triggers, and write down what they say."""
    with closing(context.connect()) as connection, transaction(connection), connection.cursor() as cursor:
        found = triggers.evaluate(observed.read(cursor), context.settings)
        if evaluations.record(cursor, found):
            log.info("train? %s", found.reason)
        return found
