"""Scorers in threads of the test, models for them, and a stream to score."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import numpy as np
from loop.makers import clean_text

from services.runtime import Context, with_retries
from services.score import artifact, worker
from services.score.engine import Engine
from services.score.head import Head
from services.settings import Settings
from services.stream import topics
from services.stream.bus import read_to_end
from services.stream.database import transaction
from services.stream.events import Prediction, decode
from services.trainer import registry
from services.trainer.promotion import Promoter


def eventually(condition: Callable[[], bool], otherwise: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.1)


class Scorer:
    """A score service, with its heartbeat."""

    def __init__(self, settings: Settings, slot: int = 0) -> None:
        self.context = Context(settings, "score", slot)
        arguments = (self.context, worker.serve)
        self._threads = [
            threading.Thread(target=self.context.beat, daemon=True),
            threading.Thread(target=with_retries, args=arguments, daemon=True),
        ]

    def __enter__(self) -> Scorer:
        for thread in self._threads:
            thread.start()
        eventually(lambda: self.context.state == "running", "the scorer did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.context.stop.set()
        for thread in self._threads:
            thread.join(20)
        self.context.gone()

    @property
    def epoch(self) -> int:
        return int(self.context.detail["epoch"])


def add_model(settings: Settings, engine: Engine, nudge: float = 0.01, *, lies: bool = False) -> str:
    """Register the model of `engine` with its bias nudged; one that lies was saved with other answers than its own.
    Its version."""
    head = engine.model.head._replace(bias=engine.model.head.bias + np.array([0, 0, nudge], np.float32))
    return _registered(settings, engine, head, lies=lies)


def _registered(settings: Settings, engine: Engine, head: Head, *, lies: bool = False) -> str:
    texts = [example.text for example in engine.card.examples]
    features = engine.embed(texts)[:: -1 if lies else 1]
    model = artifact.make(
        head, engine.card.temperature, engine.runtime.encoding, languages=engine.card.languages, dataset="test",
        parent=engine.card.version, metrics={}, examples=dict(zip(texts, features, strict=True)),
    )  # fmt: skip
    with database(settings) as cursor:
        registry.register(cursor, model.card.version, engine.card.version, artifact.files_of(model))
    return model.card.version


def broken_model(settings: Settings, engine: Engine) -> str:
    """Register the model of `engine` with good and bad news confused. Its version."""
    head = engine.model.head._replace(
        weights=engine.model.head.weights[:, ::-1].copy(), bias=engine.model.head.bias[::-1].copy()
    )
    return _registered(settings, engine, head)


def tampered(settings: Settings, engine: Engine) -> str:
    version = add_model(settings, engine)
    with database(settings) as cursor:
        cursor.execute(
            "UPDATE model_blob SET bytes = 'x' WHERE sha256 ="
            " (SELECT files ->> 'head.safetensors' FROM model_version WHERE version = %s)",
            (version,),
        )
    return version


def promote(settings: Settings, version: str) -> int:
    with closing(settings.open_bus("test")) as bus:
        promoter = Promoter(bus, settings.connector("test"), settings.prepare_s)
        return promoter.promote(version, actor="ana", reason="a test", evidence={}).epoch


@contextmanager
def database(settings: Settings) -> Iterator[registry.Cursor]:
    with closing(settings.connector("test")()) as connection, transaction(connection), connection.cursor() as cursor:
        yield cursor


class Stream:
    """Texts in a thread of its own, some fifty a second."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._feed, daemon=True)
        self.sent = 0

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _feed(self) -> None:
        with closing(self._settings.open_bus("feed")) as bus:
            while not self._stop.wait(0.02):
                bus.publish([clean_text(f"text{self.sent}", f"Profit rises to {self.sent} million")])
                self.sent += 1


class Predictions:
    """Follows `predictions`, or `topic`, from its beginning."""

    def __init__(self, settings: Settings, topic: str = topics.PREDICTIONS) -> None:
        self._topic = topic
        self._bus = settings.open_bus("test")
        self._reader = self._bus.reader([topic])
        self._found: list[Prediction] = []

    def __enter__(self) -> Predictions:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()
        self._bus.close()

    def all(self) -> list[Prediction]:
        """Those so far."""
        records = read_to_end(self._reader, self._bus.ends(self._topic))
        self._found += [decode(Prediction, record.value) for record in records]
        return self._found

    def wait_for(self, more: int) -> None:
        """Until there are so many more."""
        goal = len(self.all()) + more
        eventually(lambda: len(self.all()) >= goal, "the stream stands still")


def epochs(found: list[Prediction]) -> dict[int, list[int]]:
    """By partition of the texts, in the order of their offsets."""
    made: dict[int, list[int]] = {}
    for one in sorted(found, key=lambda one: one.origin.offset):
        made.setdefault(one.origin.partition, []).append(one.epoch)
    return made
