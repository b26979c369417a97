"""The end of the log, followed once per process and handed to every live stream.

One thread reads; all that streams see (`positions`, `champion`, the set of clients) lives on the event loop, so a
client joins at a known position without a lock: what lies before it is history, what comes after is offered to it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final
from weakref import WeakSet

from services.gateway.frames import Frame, Renderer, Texts, frame, model_change
from services.gateway.positions import Positions, encode_positions, kept
from services.keys import Key
from services.stream import metrics
from services.stream.bus import Bus, TopicPartition
from services.stream.database import Connect
from services.stream.errors import Fatal, Transient, Truncated
from services.stream.events import ModelChange
from services.stream.loop import Backoff
from services.stream.topics import CLEAN, MODELS, PREDICTIONS

TOPICS: Final = (MODELS, PREDICTIONS, CLEAN)
"""In the order in which a reader with a backlog should serve them."""
POLL_S: Final = 0.5
GATHER_S: Final = 0.02
"""Pause after each look that found something: a look costs the database half a millisecond."""
MAX_RECORDS: Final = 1_000

log = logging.getLogger(__name__)


class Client:
    """One live stream's queue. When it is full the stream is `slow` and gets nothing more. `key` let it in."""

    def __init__(self, ticker: str | None, most: int, key: Key | None = None) -> None:
        self._ticker = ticker.casefold() if ticker else None
        self._most, self.key = most, key
        self._waiting: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self.slow = self.ended = False
        self.event_id = ""
        """Position after all that was offered; what to resume from once `take` gives nothing."""

    def wants(self, made: Frame) -> bool:
        """Whether the frame passes this stream's filter."""
        return self._ticker is None or made.tickers is None or self._ticker in made.tickers

    def offer(self, frames: Sequence[Frame], event_id: str) -> None:
        """Queue what the stream wants."""
        wanted = [made.data for made in frames if self.wants(made)]
        if len(self._waiting) + len(wanted) > self._most:
            self.slow = True
        else:
            self._waiting += wanted
            self.event_id = event_id
        if wanted:
            self._changed.set()

    def end(self) -> None:
        """The server stops, or the key no longer holds."""
        self.ended = True
        self._changed.set()

    async def take(self, timeout: float) -> bytes:
        """All that waits, at once; empty after `timeout` seconds, or when the stream is over."""
        if not self._waiting and not self.slow and not self.ended:
            self._changed.clear()
            # Something may be offered between the timeout and this coroutine's turn: it is given, not passed over.
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), timeout)
        data = b"".join(self._waiting)
        self._waiting.clear()
        return data


class Tail:
    """Follows `predictions`, `models` and, for their texts, `texts.clean`."""

    def __init__(self, open_bus: Callable[[], Bus], connect: Connect, fatal: Callable[[Fatal], None]) -> None:
        self._open_bus, self._fatal = open_bus, fatal
        self._texts = Texts(connect)
        self._places: dict[TopicPartition, int] = {}
        self._models_told_from = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tail", daemon=True)
        self._clients: set[Client] = set()
        self._admitted: WeakSet[Client] = WeakSet()
        self.ready = asyncio.Event()
        self.positions: Positions = {}
        self.champion: ModelChange | None = None

    # ── on the event loop ───────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Start following, from the log's end."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def admit(self, client: Client, most: int) -> bool:
        """Count the client among the `most` there may be, until it leaves or, if it never joins, is dropped."""
        if len(self._admitted) >= most:
            return False
        self._admitted.add(client)
        return True

    def join(self, client: Client) -> Positions:
        """Offer the client everything from the returned position on."""
        self._clients.add(client)
        metrics.STREAMS.inc()
        client.event_id = encode_positions(self.positions)
        return self.positions

    def leave(self, client: Client) -> None:
        """Forget the client."""
        self._clients.discard(client)
        self._admitted.discard(client)
        metrics.STREAMS.dec()

    def end(self) -> None:
        """End every stream; their clients resume elsewhere or later."""
        for client in self._clients:
            client.end()

    def end_unless(self, holds: Callable[[Key | None], bool]) -> None:
        """End the streams whose key no longer holds."""
        for client in self._clients:
            if not holds(client.key):
                client.end()

    async def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        await asyncio.to_thread(self._thread.join)

    def _offer(self, frames: Sequence[Frame], positions: Positions, champion: ModelChange | None) -> None:
        self.positions, self.champion = positions, champion or self.champion
        self.ready.set()
        event_id = encode_positions(positions)
        for client in self._clients:
            if not client.slow:
                client.offer(frames, event_id)

    # ── on the thread ───────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        backoff = Backoff(self._stop)
        while not self._stop.is_set():
            try:
                self._follow(backoff)
            except Truncated as error:
                log.warning("the live stream fell behind: %s", error)
            except Transient as error:
                log.warning("the live stream waits: %s", error)
                backoff.wait()
            except Fatal as error:
                self._fatal(error)
                return
            except Exception as defect:  # a silent thread would leave every stream hanging
                log.exception("the live stream failed")
                self._fatal(Fatal(f"the live stream failed: {defect!r}"))
                return
        self._texts.close()

    def _follow(self, backoff: Backoff) -> None:
        bus = self._open_bus()
        try:
            renderer, lost = self._renderer(bus)
            reader = bus.reader(TOPICS, self._places)
            try:
                self._tell([_truncated(renderer.positions)] if lost else [], renderer, None)
                while not self._stop.is_set():
                    records = reader.poll(POLL_S, MAX_RECORDS)
                    self._texts.forget()
                    backoff.reset()
                    self._places = dict(reader.positions())
                    changes = [change for record in records if (change := model_change(record)) is not None]
                    told = [r for r in records if r.topic != MODELS or r.offset >= self._models_told_from]
                    if records:
                        self._tell(renderer.frames(told), renderer, changes[-1] if changes else None)
                        self._stop.wait(GATHER_S)
            finally:
                reader.close()
        finally:
            bus.close()

    def _renderer(self, bus: Bus) -> tuple[Renderer, bool]:
        ends = {place: offset for topic in TOPICS for place, offset in bus.ends(topic).items()}
        if not self._places:  # the whole of `models` is read to learn the champion, and told from its end on
            self._models_told_from = max(bus.ends(MODELS).values())
            self._places = {**ends, **bus.begins(MODELS)}
            return Renderer({place: end for place, end in ends.items() if place.topic != CLEAN}, self._texts), False
        begins = {place: offset for topic in TOPICS for place, offset in bus.begins(topic).items()}
        before = self._places
        self._places, _ = kept(before, begins, ends)
        positions = {place: offset for place, offset in self._places.items() if place.topic != CLEAN}
        return Renderer(positions, self._texts), any(before.get(p) != offset for p, offset in positions.items())

    def _tell(self, frames: Sequence[Frame], renderer: Renderer, champion: ModelChange | None) -> None:
        self._loop.call_soon_threadsafe(self._offer, frames, dict(renderer.positions), champion)


def _truncated(positions: Positions) -> Frame:
    event_id = encode_positions(positions)
    return Frame(event_id, None, frame("truncated", b'{"detail":"events were lost to retention"}', event_id))
