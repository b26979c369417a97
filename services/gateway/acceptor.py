"""The accept thread: what waits is published in one transaction, so that many small requests share one fsync.

The first text waits for nothing; while one transaction commits, and at least `GATHER_S`, the next one's texts gather.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from services.gateway.limits import Limits
from services.gateway.problems import Problem, unavailable
from services.stream.bus import Bus, Outgoing
from services.stream.errors import Fatal, TickerloopError, Transient

GATHER_S: Final = 0.015
GROUP_EVENTS: Final = 5_000
GROUP_BYTES: Final = 16_000_000
"""Bounds one transaction; a single request is never split, so that nothing of it is half kept."""

PATIENCE_S: Final = 15.0
"""Longest wait for the log; it is no bound on the transaction itself, which nobody can take back."""

log = logging.getLogger(__name__)


class _Pending(NamedTuple):
    events: Sequence[Outgoing]
    size: int
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]


class Acceptor:
    """Owns `bus`. `fatal` is told of an error after which this process must end."""

    def __init__(self, bus: Bus, limits: Limits, fatal: Callable[[Fatal], None]) -> None:
        self._bus, self._fatal = bus, fatal
        self._max_events, self._max_bytes = limits.queue_events, limits.queue_bytes
        self._waiting: deque[_Pending] = deque()
        self._events = self._bytes = 0
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="accept", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Publish what still waits, then end the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()
        self._bus.close()

    async def publish(self, events: Sequence[Outgoing]) -> None:
        """Return once `events` are durable, all of them.

        Raises:
            Problem: 429 when the queue is full, 503 when the log is away; none of `events` is kept then. 503, too,
                when the log hangs; whether they will be kept is open then.
        """
        loop = asyncio.get_running_loop()
        pending = _Pending(events, sum(len(e.value) for e in events), loop, loop.create_future())
        with self._changed:
            if self._stopped:
                raise unavailable("the gateway is stopping")
            if self._events and (
                self._events + len(events) > self._max_events or self._bytes + pending.size > self._max_bytes
            ):
                raise Problem(429, "queue-full", "more texts wait for the log than the gateway holds", retry_after=1)
            self._waiting.append(pending)
            self._events += len(events)
            self._bytes += pending.size
            self._changed.notify()
        try:
            await asyncio.wait_for(pending.done, PATIENCE_S)
        except TimeoutError:
            raise unavailable("the log does not answer; send it again: what was kept after all counts once") from None

    def _run(self) -> None:
        while group := self._take():
            due = time.monotonic() + GATHER_S
            error: Exception | None = None
            try:
                self._bus.publish([event for pending in group for event in pending.events])
            except Transient as transient:
                log.warning("%d requests not taken: %s", len(group), transient)
                error = unavailable("the log is away; nothing of this request was kept, send it again")
            except Fatal as fatal:
                error = fatal
                self._fatal(fatal)
            except TickerloopError as refused:
                error = refused
            except Exception as defect:  # whatever it is, the requests must be answered and the thread must live
                log.exception("the accept thread failed")
                error = defect
            self._settle(group, error)
            time.sleep(max(0.0, due - time.monotonic()))

    def _take(self) -> list[_Pending]:
        with self._changed:
            while not self._waiting and not self._stopped:
                self._changed.wait()
            group: list[_Pending] = []
            events = size = 0
            while self._waiting:
                first = self._waiting[0]
                events, size = events + len(first.events), size + first.size
                if group and (events > GROUP_EVENTS or size > GROUP_BYTES):
                    break
                group.append(self._waiting.popleft())
            return group

    def _settle(self, group: Sequence[_Pending], error: Exception | None) -> None:
        with self._changed:
            self._events -= sum(len(pending.events) for pending in group)
            self._bytes -= sum(pending.size for pending in group)

        def resolve() -> None:
            for pending in group:
                if pending.done.done():  # its client has gone
                    continue
                if error is None:
                    pending.done.set_result(None)
                else:
                    pending.done.set_exception(error)

        group[0].loop.call_soon_threadsafe(resolve)
