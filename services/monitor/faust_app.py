"""The Faust app that hosts the window module on Kafka.

**Where the state lives.** In Postgres alone (`rows.py`): counts, watermark and the last seen offset of a partition
move in one transaction, so a kill leaves either all or nothing of a batch, and what comes again is passed over.
A Faust table can't be made exact by a guard per aggregate: its changelog is written outside any transaction and read
uncommitted, so after a kill one key's state, and the watermark that judges lateness, may be ahead of another's.

So Faust consumes: it joins the group, fetches, hands batches to one agent. Its traps, and what shuts them:
- it reads uncommitted records, and commits what it threw away: see `faust_transport.py`;
- it acks an event whose agent raised: the agent doesn't raise. It tries again while servers are away, sends what can't
  be counted to the dead letters, and on a fatal error holds still until the process has ended;
- it never closes restored windows: open windows are rows, closed by the watermark or, on idle partitions, by the clock;
- it may lose records between fetch and agent: a record whose predecessor isn't counted ends the process.

Membership is dynamic: aiokafka's heartbeats don't carry the static id, so that two processes with one would throw each
other out for ever. A killed worker's partitions wait for its session to run out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, Final
from urllib.parse import urlsplit

import faust
from aiokafka.errors import KafkaError, OffsetOutOfRangeError  # type: ignore[import-untyped]

from services.monitor import faust_transport
from services.monitor.counter import Counter
from services.monitor.embedded import GROUP, close_silent, steady_ms
from services.monitor.faust_transport import Transport, delivery_of
from services.monitor.windows import Idle, Rules
from services.runtime import Context
from services.stream.errors import Fatal, TickerloopError, Transient, Truncated
from services.stream.topics import MENTIONS

SESSION_S: Final = 6.0
MAX_RECORDS: Final = 500
WITHIN_S: Final = 0.1
"""Longest that a record waits for its batch to fill."""
LOOK_S: Final = 0.1
STOP_S: Final = 15.0
"""Longest wait for Faust to stop; nothing is lost by not waiting."""
MAX_IDLE_S: Final = 86_400.0
"""aiokafka leaves the group when nothing is fetched for this long; a step that waits for a server must not."""

log = logging.getLogger(__name__)


def serve(context: Context, rules: Rules) -> None:
    """Count from Kafka until stopped.

    Raises:
        Fatal: see `services.stream.errors`; a lost record among them.
        Transient: a server is away at the start.
    """
    if context.settings.log_level != "DEBUG":
        logging.getLogger(faust_transport.__name__).setLevel(logging.WARNING)  # inherits the driver's talk
    servers = urlsplit(context.settings.bus).netloc.split(",")
    with closing(context.bus()) as bus:
        source = bus.identity(MENTIONS)
    with closing(Counter(context, rules, source)) as counter:
        asyncio.run(_Host(context, rules, source, servers, counter).run())


class _Host:
    """One life of the Faust app, on the loop that creates it."""

    def __init__(self, context: Context, rules: Rules, source: str, servers: Sequence[str], counter: Counter) -> None:
        self._context, self._rules, self._source, self._counter = context, rules, source, counter
        self._idle = Idle(rules)
        self._failure: BaseException | None = None
        self._worker = ThreadPoolExecutor(1, "count")
        self._app = self._new_app(servers)

    def _new_app(self, servers: Sequence[str]) -> Any:
        settings = self._context.settings
        app = faust.App(
            f"{settings.deployment}.{GROUP}",
            broker=[f"kafka://{server}" for server in servers],
            datadir=str(settings.data_folder / "faust"),
            store="memory://",
            web_enabled=False,
            topic_disable_leader=True,
            topic_allow_declare=False,
            # Positions are always sought, so this is about a position that retention has passed: never skip.
            consumer_auto_offset_reset="none",
            # A stop or a rebalance doesn't wait for the batch in hand: what isn't counted then is read again.
            stream_wait_empty=False,
            broker_session_timeout=SESSION_S,
            broker_heartbeat_interval=SESSION_S / 4,
            broker_max_poll_interval=MAX_IDLE_S,
            broker_max_poll_records=MAX_RECORDS,
        )
        app.transport = Transport(servers, app, self)
        topic = app.topic(MENTIONS, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
        app.agent(topic, concurrency=1, name=GROUP)(self._agent)
        return app

    def seen(self, partitions: Collection[int]) -> Mapping[int, int]:
        """See `Places`."""
        return self._counter.seen(partitions)

    def starts(self, counted: Mapping[int, int]) -> None:
        """See `Places`."""
        self._counter.starts(counted)

    def failed(self, error: Exception) -> None:
        """See `Places`."""
        self._failure = error

    async def _agent(self, stream: Any) -> None:
        async for events in stream.take_events(MAX_RECORDS, within=WITHIN_S):
            deliveries = [delivery_of(event.message) for event in events]
            try:
                await asyncio.get_running_loop().run_in_executor(self._worker, self._counter.count, deliveries)
            except Exception as error:
                self._failure = error
                await asyncio.Event().wait()  # `run` ends the process; going on would ack these events
            self._idle.moved({delivery.record.partition for delivery in deliveries}, steady_ms())

    async def run(self) -> None:
        """Run until told to stop.

        Raises:
            TickerloopError: why it couldn't go on.
        """
        try:
            await self._started()
            while not self._context.stop.is_set():
                self._check()
                self._context.state = "running"
                await self._close_silent()
                await asyncio.sleep(LOOK_S)
        finally:
            await self._stopped()

    async def _started(self) -> None:
        try:
            await self._app.start()
        except KafkaError as error:
            raise Transient(f"{type(error).__name__}: {error}") from error

    def _check(self) -> None:
        cause = self._failure or (self._app.crash_reason if self._app.should_stop else None)
        if isinstance(cause, TickerloopError):
            raise cause
        if isinstance(cause, OffsetOutOfRangeError):
            raise Truncated(
                f"{cause}: retention has dropped mentions that were not counted. What is gone is gone; to go on from"  # noqa: S608 (a hint for people)
                f" the oldest kept: DELETE FROM monitor_partition WHERE source = '{self._source}'"
            ) from cause
        if isinstance(cause, KafkaError | TimeoutError):
            raise Transient(f"{type(cause).__name__}: {cause}") from cause
        if cause is not None or self._app.should_stop:
            raise Fatal(f"Faust stopped: {type(cause).__name__}: {cause}") from cause

    async def _close_silent(self) -> None:
        owned = {place.partition for place in self._app.consumer.assignment() if place.topic == MENTIONS}
        due = self._idle.due(owned, steady_ms())
        try:
            await asyncio.to_thread(close_silent, self._context.connect, due, self._rules)
        except Transient as error:
            log.info("silent partitions wait: %s", error)

    async def _stopped(self) -> None:
        try:
            await asyncio.wait_for(self._app.stop(), STOP_S)
        except TimeoutError as error:
            if not self._context.stop.is_set():
                raise Fatal(f"Faust didn't stop within {STOP_S} s, so it can't be started again") from error
            log.warning("Faust didn't stop within %s s", STOP_S)
        finally:
            self._worker.shutdown()
