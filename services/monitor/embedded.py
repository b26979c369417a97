"""The window module in the ordinary consumer loop, for the embedded bus; and what both hosts share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from typing import Final

from psycopg2.extensions import cursor as Cursor

from services.monitor import rows
from services.monitor.windows import Idle, Rules
from services.runtime import Context, now_ms
from services.stream.bus import Consumer, Record
from services.stream.database import Connect, transaction
from services.stream.loop import Answer, Hooks
from services.stream.topics import MENTIONS

GROUP: Final = "monitor"
EVERY_S: Final = 0.2


def serve(context: Context, rules: Rules) -> None:
    """The ordinary consumer loop; the sink's transaction moves offsets, counts and progress together."""
    idle = Idle(rules)
    with closing(context.bus()) as bus:
        source = bus.identity(MENTIONS)

    def step(records: Sequence[Record], cursor: Cursor) -> Sequence[Answer]:
        return rows.count(records, cursor, source, rules)

    def before(consumer: Consumer) -> None:
        context.state = "running"
        owned = [place.partition for place in consumer.owned()]
        close_silent(context.connect, idle.due(owned, steady_ms()), rules)

    def after(records: Sequence[Record]) -> None:
        idle.moved({record.partition for record in records}, steady_ms())

    context.loop(GROUP, MENTIONS, every_s=EVERY_S, hooks=Hooks(before=before, after=after)).sink(step)


def close_silent(connect: Connect, partitions: Sequence[int], rules: Rules) -> None:
    """Close by the wall clock what is over on silent partitions, in a transaction of its own.

    Raises:
        Transient: the server is away.
    """
    if not partitions:
        return
    with closing(connect()) as connection, transaction(connection), connection.cursor() as cursor:
        rows.close_idle(cursor, partitions, now_ms(), rules)


def steady_ms() -> int:
    """A clock for silences, which a change of the wall clock doesn't move."""
    return time.monotonic_ns() // 1_000_000
