"""The consumer loop all services run: poll, step, commit; and what to do with each of the three kinds of error.

A step answers each record: events to publish, or `Rejected`, which sends the record as it came to `<topic>.dead`. A
step that raises something else has a defect or met bad input nobody foresaw: the batch is halved until the record that
breaks it stands alone, that one is dead-lettered, and too many of those stop the service (`Trips`).
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from psycopg2.extensions import cursor as Cursor

from services.stream import metrics
from services.stream.bus import Batch, Bus, Consumer, Marks, Outgoing, Record, check_size
from services.stream.database import mapped
from services.stream.errors import Fatal, Fenced, Rejected, Transient
from services.stream.topics import MAX_DEAD_BYTES, Topic, dead
from services.stream.trips import Trips

Answer = Sequence[Outgoing] | Rejected

BACKOFF_FIRST_S: Final = 0.05
BACKOFF_LAST_S: Final = 5.0

log = logging.getLogger(__name__)


class Transform(Protocol):
    """Events in → events out. May be done twice before its commit and must then give the same answers."""

    def __call__(self, records: Sequence[Record]) -> Sequence[Answer]:
        """One answer per record, in order."""


class Sink(Protocol):
    """Events in → rows, written with `cursor` in the transaction that moves the offsets."""

    def __call__(self, records: Sequence[Record], cursor: Cursor) -> Sequence[Answer]:
        """One answer per record, in order."""


class Hooks(NamedTuple):
    """What a service does around a batch, beside its step."""

    before: Callable[[Consumer], None] = lambda _: None
    """Before each poll, on the loop's thread: follow `models`, refuse partitions that are ahead."""
    marks: Callable[[Batch], Marks] = lambda _: {}
    """Marks to store with the batch's positions."""
    after: Callable[[Sequence[Record]], None] = lambda _: None
    """After the commit: what may be lost, such as a cache."""


class Loop:
    """One consumer's life. `run` returns when `stop` is set and the batch in hand is committed."""

    def __init__(
        self,
        bus: Bus,
        group: str,
        topics: Sequence[str],
        stop: threading.Event,
        trips: Trips,
        *,
        slot: int = 0,
        max_records: int = 500,
        every_s: float = 0.0,
        hooks: Hooks | None = None,
    ) -> None:
        """`every_s`: least seconds from one batch to the next, unless it was full; batches grow instead of commits."""
        self._bus, self._group, self._topics, self._stop, self._trips = bus, group, topics, stop, trips
        self._slot, self._max_records, self._every_s, self._hooks = slot, max_records, every_s, hooks or Hooks()

    def transform(self, step: Transform) -> None:
        """Run a transforming step until stopped.

        Raises:
            Fatal: see `services.stream.errors`; nothing of the batch in hand is committed.
        """

        def commit(consumer: Consumer, batch: Batch) -> None:
            events = self._flatten(batch.records, self._answers(batch.records, lambda records: fitting(step(records))))
            consumer.transform(batch, events, self._hooks.marks(batch))

        self._run(commit, sinks=False)

    def sink(self, step: Sink) -> None:
        """Run a sinking step until stopped; as `transform`."""

        def commit(consumer: Consumer, batch: Batch) -> None:
            def write(cursor: Cursor) -> Sequence[Outgoing]:
                def in_savepoint(records: Sequence[Record]) -> Sequence[Answer]:
                    # Mapped as a whole: a server lost in the middle is not the step's failure.
                    with mapped():
                        cursor.execute("SAVEPOINT step")
                        try:
                            answers = fitting(step(records, cursor))
                        except (Transient, Fatal):
                            raise
                        except Exception:
                            cursor.execute("ROLLBACK TO SAVEPOINT step")
                            raise
                        cursor.execute("RELEASE SAVEPOINT step")
                        return answers

                return self._flatten(batch.records, self._answers(batch.records, in_savepoint))

            consumer.sink(batch, write, self._hooks.marks(batch))

        self._run(commit, sinks=True)

    def _run(self, commit: Callable[[Consumer, Batch], None], *, sinks: bool) -> None:
        self._trips.check()
        consumer = self._bus.consumer(self._group, self._topics, self._slot, self._max_records, sinks=sinks)
        backoff = Backoff(self._stop)
        try:
            while not self._stop.is_set():
                batch: Batch | None = None
                try:
                    self._hooks.before(consumer)
                    batch = consumer.poll(0.5)
                    if batch is None:
                        backoff.reset()
                        continue
                    due = time.monotonic() + self._every_s
                    with metrics.STEP_SECONDS.labels(self._group).time():
                        commit(consumer, batch)
                    backoff.reset()
                    metrics.EVENTS.labels(self._group).inc(len(batch.records))
                    self._hooks.after(batch.records)
                    if len(batch.records) < self._max_records:
                        self._stop.wait(max(0.0, due - time.monotonic()))
                except Transient as error:
                    metrics.RETRIES.labels(self._group).inc()
                    level = logging.INFO if isinstance(error, Fenced) else logging.WARNING
                    log.log(level, "%s: %s; trying again", self._group, error)
                    if batch is not None:
                        consumer.rewind(batch)
                    backoff.wait(consumer)
        finally:
            consumer.close()

    def _answers(
        self, records: Sequence[Record], step: Callable[[Sequence[Record]], Sequence[Answer]]
    ) -> Sequence[Answer]:
        try:
            answers = step(records)
        except (Transient, Fatal):
            raise
        except Rejected as rejected:
            if len(records) == 1:
                return [rejected]
        except Exception as error:
            log.exception("%s: the step failed on a batch of %d", self._group, len(records))
            if len(records) == 1:
                self._trips.failed(records[0])
                return [Rejected("failed", f"{type(error).__name__}: {error}"[:2000])]
        else:
            if len(answers) != len(records):
                raise Fatal(f"{self._group}: {len(answers)} answers to {len(records)} records")
            self._trips.passed(records)
            return answers
        middle = len(records) // 2
        return [*self._answers(records[:middle], step), *self._answers(records[middle:], step)]

    def _flatten(self, records: Sequence[Record], answers: Sequence[Answer]) -> list[Outgoing]:
        events: list[Outgoing] = []
        for record, answer in zip(records, answers, strict=True):
            if isinstance(answer, Rejected):
                metrics.DEAD_LETTERS.labels(self._group, answer.reason).inc()
                events.append(dead_letter(record, answer, self._group))
            else:
                events.extend(answer)
        return events


def fitting(answers: Sequence[Answer]) -> Sequence[Answer]:
    """Refuse output that its topic won't take, while the record that it came from can still be told by halving.

    Raises:
        Rejected: an event is oversize.
    """
    for answer in answers:
        for event in () if isinstance(answer, Rejected) else answer:
            check_size(event, Topic(event.topic, None).max_bytes)
    return answers


def dead_letter(record: Record, rejected: Rejected, group: str) -> Outgoing:
    """The event as it came, with reason and origin in headers; a value too large for the topic is cut and marked so."""
    headers = (
        *record.headers[:32],
        ("reason", rejected.reason.encode()),
        ("detail", rejected.detail.encode("utf-8", "replace")[:4000]),
        ("group", group.encode()),
        ("origin", json.dumps([record.topic, record.partition, record.offset]).encode()),
    )
    room = MAX_DEAD_BYTES - sum(len(name) + len(value) for name, value in headers)
    if len(record.value) > room:
        cut = ("cut", str(len(record.value)).encode())
        headers, room = (*headers, cut), room - len(cut[0]) - len(cut[1])
    return Outgoing(dead(record.topic), record.key, record.value[: max(0, room)], headers)


class Backoff:
    """Exponential with full jitter (Brooker, AWS 2015), cut short by `stop`."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._seconds = BACKOFF_FIRST_S

    def reset(self) -> None:
        """The last try succeeded."""
        self._seconds = BACKOFF_FIRST_S

    def wait(self, consumer: Consumer | None = None) -> None:
        """Sleep, keeping the consumer's membership."""
        if consumer is not None:
            consumer.keep()
        self._stop.wait(random.uniform(0, self._seconds))  # noqa: S311 (jitter, not a secret)
        self._seconds = min(BACKOFF_LAST_S, self._seconds * 2)
