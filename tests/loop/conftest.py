"""A bus on a fresh database, and a way to run one service's step until it has nothing left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from kafka_broker import kafka_broker

from services.runtime import Context
from services.settings import Settings
from services.stream.bus import Bus
from services.stream.database import transaction

__all__ = ["kafka_broker"]


class Bench:
    """A deployment without processes: services run in threads of the test until they are idle."""

    def __init__(self, database: str, valkey: str, data: str) -> None:
        self.settings = Settings(database=database, redis=valkey, data=data, partitions=2)
        self.bus: Bus = self.settings.open_bus("test")
        self.bus.create_topics()

    def context(self, name: str) -> Context:
        """A context as a service's process would have it."""
        return Context(self.settings, name)

    def run(self, serve: Callable[[Context], None], until: Callable[[], bool], timeout: float = 30.0) -> None:
        """Run `serve` in a thread until `until()` holds."""
        context = self.context("test")
        failure: list[BaseException] = []

        def guarded() -> None:
            try:
                serve(context)
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=guarded)
        thread.start()
        deadline = time.monotonic() + timeout
        try:
            while not until():
                if failure:
                    raise failure[0]
                assert time.monotonic() < deadline, "the service did not get there in time"
                time.sleep(0.02)
        finally:
            context.stop.set()
            thread.join(10)

    def caught_up(self, group: str, *topics: str) -> bool:
        """Whether `group` has committed to the end of `topics`; on a bus of its own, for any thread to ask."""
        with closing(self.settings.open_bus("test")) as bus:
            return all(
                bus.committed(group, topic).get(place, 0) >= end
                for topic in topics
                for place, end in bus.ends(topic).items()
            )

    def rows(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        """Ask the database."""
        with (
            closing(self.settings.connector("test")()) as connection,
            transaction(connection),
            connection.cursor() as cursor,
        ):
            cursor.execute(query, arguments)
            return cursor.fetchall()


@pytest.fixture
def bench(database: str, valkey_url: str, tmp_path: Any) -> Iterator[Bench]:
    made = Bench(database, valkey_url, str(tmp_path))
    yield made
    made.bus.close()
