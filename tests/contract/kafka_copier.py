"""A group member as a process of its own: copies a topic to another by `transform`, for `test_kafka_only` to mistreat.

Arguments: bootstrap, deployment, database URL, source, target, slot. Prints a line per commit, and how it ended.
"""

from __future__ import annotations

import sys

from services.stream.bus import Outgoing
from services.stream.database import connector
from services.stream.errors import Fatal, Transient
from services.stream.kafka import KafkaBus
from services.stream.topics import Topic


def main() -> int:
    bootstrap, deployment, url, source, target, slot = sys.argv[1:]
    topics = (Topic(source, None), Topic(target, None))
    bus = KafkaBus(bootstrap, connector(url, "copier"), deployment=deployment, topics=topics)
    consumer = bus.consumer("copy", [source], int(slot), max_records=100)
    owned = 0
    while True:
        batch = None
        try:
            if owned != len(consumer.owned()):
                owned = len(consumer.owned())
                print("owned", owned, flush=True)
            batch = consumer.poll(0.5)
            if batch is not None:
                consumer.transform(batch, [Outgoing(target, r.key, r.value) for r in batch.records])
                print("committed", len(batch.records), flush=True)
        except Transient as error:
            print(repr(error), flush=True)
            if batch is not None:
                consumer.rewind(batch)
            consumer.keep()
        except Fatal as error:
            print(repr(error), flush=True)
            return 3


if __name__ == "__main__":
    sys.exit(main())
