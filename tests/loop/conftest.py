"""A bus on a fresh database and a way to run one service's step until it has nothing left; a deployment on each bus."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka_broker import Broker, kafka_broker
from loop.rollouts import WANTED
from loop.scoring import eventually

from services.runtime import Context
from services.score import artifact, worker
from services.score.engine import Engine, open_engine
from services.settings import Settings
from services.stream import relay
from services.stream.bus import Bus
from services.stream.database import transaction
from services.stream.kafka import client
from services.trainer import rollout
from services.trainer.setup import register_bundled

__all__ = ["kafka_broker"]

BOTH = ["embedded", pytest.param("kafka", marks=pytest.mark.kafka)]
Opened = list[str]


class Bench:
    """A deployment without processes: services run in threads of the test until they are idle."""

    def __init__(self, settings: Settings, bus: Bus) -> None:
        self.settings, self.bus = settings, bus

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
    settings = Settings(database=database, redis=valkey_url, data=str(tmp_path), partitions=2)
    with closing(settings.open_bus("test")) as bus:
        bus.create_topics()
        yield Bench(settings, bus)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return open_engine(artifact.bundled(), device="cpu")


@pytest.fixture(params=BOTH)
def settings(request: pytest.FixtureRequest, database: str, tmp_path: Path) -> Iterator[Settings]:
    """A deployment with the bundled model promoted; on Kafka with a relay."""
    found = Settings(
        database=database, data=str(tmp_path), models=str(tmp_path / "models"), device="cpu", partitions=2, prepare_s=60
    )
    with ExitStack() as exits:
        if request.param == "kafka":
            broker: Broker = request.getfixturevalue("kafka_broker")
            found = msgspec.structs.replace(found, bus=f"kafka://{broker.bootstrap}", deployment=tmp_path.name)
            forget_topics(broker)
        with closing(found.open_bus("setup")) as bus:
            bus.create_topics()
            register_bundled(bus)
        if request.param == "kafka":
            context = Context(found, "relay")
            relaying = threading.Thread(target=relay.serve, args=(context,), daemon=True)
            relaying.start()
            exits.callback(relaying.join, 20)
            exits.callback(context.stop.set)
        yield found


def forget_topics(broker: Broker) -> None:
    """A session has one broker: an empty log for who needs one."""
    with closing(client.admin(broker.bootstrap)) as admin:
        ours = [name for name in admin.list_topics() if not name.startswith("__")]
        if ours:
            admin.delete_topics(ours)
            eventually(lambda: not set(ours) & set(admin.list_topics()), "the topics are still there")


@pytest.fixture
def opened(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """Versions, in the order in which scorers opened them. They have their encoder already."""
    found: Opened = []

    def share(folder: Path, **options: Any) -> Engine:
        found.append(folder.name)
        return open_engine(folder, **options | {"share": engine})

    monkeypatch.setattr(worker, "open_engine", share)
    return found


@pytest.fixture
def quick(settings: Settings, valkey_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A short shadow, made of stored texts at once; the trainer has its encoder already."""

    def share(folder: Path, **options: Any) -> Engine:
        return open_engine(folder, **options | {"share": engine})

    monkeypatch.setattr(rollout, "open_engine", share)
    return msgspec.structs.replace(settings, redis=valkey_url, shadow_texts=WANTED, shadow_s=0, shadow_share=1.0)
