"""What the Faust agent does with a batch: count it for good, whatever it takes, or stop the process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing

from psycopg2.extensions import cursor as Cursor

from services.monitor import rows
from services.monitor.embedded import GROUP
from services.monitor.faust_transport import Delivery
from services.monitor.windows import Rules
from services.runtime import Context
from services.stream import metrics
from services.stream.bus import Outgoing, Record
from services.stream.database import transaction
from services.stream.errors import Fatal, Rejected, TickerloopError, Transient
from services.stream.loop import Answer, Backoff, dead_letter
from services.stream.trips import Trips

log = logging.getLogger(__name__)


class Counter:
    """Counts batches of the log named `source`. `count` is called by one thread at a time, the rest by any."""

    def __init__(self, context: Context, rules: Rules, source: str) -> None:
        """Raises Tripped while a trip is stored."""
        self._context, self._rules, self._source = context, rules, source
        self._trips = Trips(context.connect, GROUP)
        self._trips.check()
        self._bus = context.bus()
        self._backoff = Backoff(context.stop)
        self._lock = threading.Lock()
        self._counted: dict[int, int] = {}

    def seen(self, partitions: Collection[int]) -> Mapping[int, int]:
        """See `Places`."""
        with closing(self._context.connect()) as connection, transaction(connection), connection.cursor() as cursor:
            return rows.seen(cursor, self._source, list(partitions))

    def starts(self, counted: Mapping[int, int]) -> None:
        """See `Places`."""
        log.info("%s counts partitions %s", GROUP, sorted(counted))
        self._passed(counted)

    def _passed(self, counted: Mapping[int, int]) -> None:
        with self._lock:
            self._counted.update({p: max(offset, self._counted.get(p, -1)) for p, offset in counted.items()})

    def count(self, deliveries: Sequence[Delivery]) -> None:
        """Count a batch; waits for servers that are away.

        Raises:
            Fatal: Faust lost a record before this batch, or the step's failures passed the limit.
            Transient: a server was away until the process was told to stop.
        """
        last = self._without_holes(deliveries)
        self._settle([delivery.record for delivery in deliveries])
        self._passed(last)
        metrics.EVENTS.labels(GROUP).inc(len(deliveries))

    def _without_holes(self, deliveries: Sequence[Delivery]) -> dict[int, int]:
        with self._lock:
            last = dict(self._counted)
        for record, after in deliveries:
            counted = last[record.partition]
            if after > counted:
                place = f"{record.topic}[{record.partition}]"
                raise Fatal(
                    f"{place}: Faust lost records between {counted} and {record.offset}; start again to read them"
                )
            last[record.partition] = max(counted, record.offset)
        return last

    def _settle(self, records: Sequence[Record]) -> None:
        while True:
            try:
                self._attempt(records)
            except Transient as error:
                metrics.RETRIES.labels(GROUP).inc()
                log.warning("%s: %s; trying again", GROUP, error)
                self._backoff.wait()
                if self._context.stop.is_set():
                    raise
            else:
                self._backoff.reset()
                return

    def _attempt(self, records: Sequence[Record]) -> None:
        """As the consumer loop does it: a batch that breaks the step is halved until the culprit stands alone."""
        try:
            with metrics.STEP_SECONDS.labels(GROUP).time():
                self._bus.write(lambda cursor: _dead(records, self._step(records, cursor)))
        except TickerloopError:
            raise
        except Exception as error:
            log.exception("%s: the step failed on a batch of %d", GROUP, len(records))
            why = Rejected("failed", f"{type(error).__name__}: {error}"[:2000])
        else:
            self._trips.passed(records)
            return
        if len(records) == 1:
            self._give_up(records[0], why)
            return
        middle = len(records) // 2
        self._attempt(records[:middle])
        self._attempt(records[middle:])

    def _step(self, records: Sequence[Record], cursor: Cursor) -> Sequence[Answer]:
        return rows.count(records, cursor, self._source, self._rules)

    def _give_up(self, record: Record, why: Rejected) -> None:
        self._trips.failed(record)

        def write(cursor: Cursor) -> Sequence[Outgoing]:
            rows.pass_over(record, cursor, self._source)
            return _dead([record], [why])

        self._bus.write(write)

    def close(self) -> None:
        """Free the connections."""
        self._bus.close()


def _dead(records: Sequence[Record], answers: Sequence[Answer]) -> list[Outgoing]:
    refused = [(r, answer) for r, answer in zip(records, answers, strict=True) if isinstance(answer, Rejected)]
    for _, rejected in refused:
        metrics.DEAD_LETTERS.labels(GROUP, rejected.reason).inc()
    return [dead_letter(record, rejected, GROUP) for record, rejected in refused]
