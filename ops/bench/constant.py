"""A score worker without a model: every text is neutral. What remains is the cost of everything else.

python -m ops.bench.constant        with the loop's settings in the environment
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing

from services import runtime
from services.runtime import Context, now_ms
from services.score.engine import Scored
from services.score.outcome import events
from services.score.worker import GROUP
from services.settings import from_environment
from services.stream import topics
from services.stream.bus import Record
from services.stream.database import transaction
from services.stream.events import CleanText, decode
from services.stream.loop import Answer
from services.trainer import registry

NEUTRAL = Scored("neutral", (0.1, 0.8, 0.1), False)


def serve(context: Context) -> None:
    """Answer until stopped."""
    with closing(context.connect()) as connection, transaction(connection), connection.cursor() as cursor:
        champion = registry.champion(cursor)
    assert champion is not None, "`tickerloop up` promotes the bundled model first"

    def step(records: Sequence[Record]) -> Sequence[Answer]:
        at = now_ms()
        return [events(decode(CleanText, record.value), NEUTRAL, record, champion, at) for record in records]

    context.state = "running"
    context.loop(GROUP, topics.CLEAN, max_records=2_000).transform(step)


if __name__ == "__main__":
    sys.exit(runtime.run(serve, from_environment(), "score"))
