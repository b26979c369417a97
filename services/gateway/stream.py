"""GET /v1/stream: predictions and promotions as they happen, resumable by event id without a gap or a double."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Final

import msgspec
from litestar import get
from litestar.params import HeaderParameter, QueryParameter
from litestar.response import Stream

from services.gateway.core import Gateway, SafeRequest, gateway_of
from services.gateway.frames import Frame, Renderer, Texts, frame
from services.gateway.positions import Positions, decode_positions, encode_positions, kept
from services.gateway.problems import SPECS, unavailable
from services.gateway.tail import Client, Tail
from services.stream.bus import Bus, Reader, TopicPartition
from services.stream.database import Connect
from services.stream.errors import Transient, Truncated
from services.stream.topics import MODELS, PREDICTIONS

READY_S: Final = 5.0
AHEAD_S: Final = 1.0
"""A client that comes from another gateway may be ahead of this one's tail; so long it is waited for."""
RETRY_MS: Final = 1_000
HISTORY_RECORDS: Final = 1_000
HISTORY_POLL_S: Final = 0.2
STALLED_S: Final = 10.0
"""A history that gives nothing for so long is ended; its client resumes."""

log = logging.getLogger(__name__)


@get("/v1/stream", media_type="text/event-stream", responses=SPECS, tags=["stream"])
async def stream(
    request: SafeRequest,
    ticker: Annotated[
        str | None, QueryParameter(max_length=100, description="only predictions that mention it")
    ] = None,
    last_event_id: Annotated[str | None, HeaderParameter(name="Last-Event-ID", description="resume after this")] = None,
) -> Stream:
    """Server-sent events: `hello` (the champion), `prediction`, `model`, `truncated`, `slow`."""
    gateway = gateway_of(request)
    wanted = decode_positions(last_event_id) if last_event_id else None
    client = Client(ticker, gateway.limits.stream_queue, request.user)
    if not gateway.tail.admit(client, gateway.limits.streams):
        raise unavailable("this gateway holds as many streams as it may", retry_after=10)
    try:
        await asyncio.wait_for(gateway.tail.ready.wait(), READY_S)
    except TimeoutError:
        raise unavailable("the log is away") from None
    if gateway.stopping:
        raise unavailable("the gateway is stopping")
    return Stream(
        _events(gateway, client, wanted),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _events(gateway: Gateway, client: Client, wanted: Positions | None) -> AsyncIterator[bytes]:
    tail = gateway.tail
    if wanted is not None:
        await _reached(tail, wanted)
    joined = tail.join(client)
    try:
        champion = msgspec.json.encode({"champion": tail.champion})
        here = encode_positions({**joined, **(wanted or {})})
        yield f"retry: {RETRY_MS}\n".encode() + frame("hello", champion, here)
        if wanted is not None:
            async with gateway.catching_up:
                async for data in _history(gateway, client, wanted, joined):
                    yield data
        while True:
            if data := await client.take(gateway.limits.heartbeat_s):
                yield data
            elif client.slow:
                yield frame("slow", b'{"detail":"this stream reads too slowly; reconnect to go on where it stopped"}')
                return
            elif client.ended:
                return
            else:
                yield f": still here\nid: {client.event_id}\n\n".encode()
    except Transient as error:
        log.info("a stream ends, its client resumes: %s", error)
    finally:
        tail.leave(client)


async def _reached(tail: Tail, wanted: Positions) -> None:
    deadline = time.monotonic() + AHEAD_S
    while any(offset > tail.positions.get(place, offset) for place, offset in wanted.items()):
        if time.monotonic() > deadline:
            return
        await asyncio.sleep(0.02)


async def _history(gateway: Gateway, client: Client, wanted: Positions, upto: Positions) -> AsyncIterator[bytes]:
    """What lies between the client's position and where it joined."""
    history = History(gateway.open_bus, gateway.connect, wanted, upto)
    try:
        while (frames := await asyncio.to_thread(history.read)) is not None:
            if history.lost:
                history.lost = False
                yield frame("truncated", b'{"detail":"events after your last one are no longer kept"}')
            if data := b"".join(made.data for made in frames if client.wants(made)):
                yield data
    finally:
        await asyncio.shield(asyncio.to_thread(history.close))


class History:
    """Reads the log from `wanted` up to `upto`, on whichever thread calls; opens nothing where the two are one."""

    def __init__(self, open_bus: Callable[[], Bus], connect: Connect, wanted: Positions, upto: Positions) -> None:
        self._open_bus, self._upto = open_bus, dict(upto)
        self._texts = Texts(connect)
        self._renderer = Renderer({place: wanted.get(place, end) for place, end in upto.items()}, self._texts)
        self._bus: Bus | None = None
        self._reader: Reader | None = None
        self.lost = False
        """Set when retention has cut off events that this read should have given."""

    def read(self) -> Sequence[Frame] | None:
        """The next frames, perhaps none yet; None at the end.

        Raises:
            Transient: the log is away, or gives nothing.
        """
        if self._reader is None:
            if self._renderer.positions == self._upto:
                return None
            self._open()
            return []
        at = self._reader.positions()
        if all(at[place] >= end for place, end in self._upto.items()):
            return None
        try:
            records = self._reader.poll(HISTORY_POLL_S, HISTORY_RECORDS)
        except Truncated:
            self._reader.close()
            self._reader = None
            return []
        # An empty look is not the end: a broker may take its time, and what lies between may be ends of transactions.
        if records:
            self._moved = time.monotonic()
        elif time.monotonic() > self._moved + STALLED_S:
            raise Transient(f"the log gave nothing of a stream's history for {STALLED_S:.0f} s")
        upto = self._upto
        return self._renderer.frames([r for r in records if r.offset < upto[TopicPartition(r.topic, r.partition)]])

    def _open(self) -> None:
        if self._bus is None:
            self._bus = self._open_bus()
        topics = (MODELS, PREDICTIONS)
        begins = {place: offset for topic in topics for place, offset in self._bus.begins(topic).items()}
        start, lost = kept(self._renderer.positions, begins, self._upto)
        self.lost = self.lost or lost
        self._renderer.positions = start
        self._reader = self._bus.reader(topics, start)
        self._moved = time.monotonic()

    def close(self) -> None:
        """Free the connections."""
        if self._reader is not None:
            self._reader.close()
        if self._bus is not None:
            self._bus.close()
        self._texts.close()
