"""The score worker and `models`: what it takes up, what it refuses, and what it does while a server is away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec
import pytest
from loop.conftest import Bench
from loop.makers import clean_text

from services.score import artifact
from services.score.engine import Engine, open_engine
from services.score.worker import Worker
from services.stream import topics
from services.stream.bus import Consumer, Outgoing, Record, TopicPartition
from services.stream.errors import Fatal, Rejected, Transient
from services.stream.events import ModelChange, encode
from services.trainer.setup import register_bundled

PLACE = TopicPartition(topics.CLEAN, 0)


class Owner:
    """A consumer that owns one partition, whose last commit was made at `epoch`."""

    def __init__(self, epoch: int = 0) -> None:
        self._mark = str(epoch) if epoch else ""

    def owned(self) -> Mapping[TopicPartition, str]:
        return {PLACE: self._mark}


def owner(epoch: int = 0) -> Consumer:
    return cast(Consumer, Owner(epoch))


@pytest.fixture(scope="module")
def engine() -> Engine:
    return open_engine(artifact.bundled(), device="cpu")


@pytest.fixture
def worker(bench: Bench, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Worker:
    bench.settings = msgspec.structs.replace(bench.settings, device="cpu")
    register_bundled(bench.bus)
    return made(bench, engine, monkeypatch)


def made(bench: Bench, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """A worker that has its encoder already."""
    worker = Worker(bench.context("score"))
    monkeypatch.setattr(worker, "_engine", lambda: engine)
    return worker


def announce(bench: Bench, epoch: int, version: str) -> None:
    change = ModelChange(epoch=epoch, version=version, action="promote", previous=None, at=1)
    bench.bus.publish([Outgoing(topics.MODELS, version.encode(), encode(change))])


def bundled() -> str:
    return artifact.load(artifact.bundled()).card.version


def epochs(worker: Worker) -> tuple[int, int]:
    """In service, and refused."""
    detail: dict[str, Any] = worker._context.detail
    return worker.current.epoch, detail.get("refused", {}).get("epoch", 0)


def test_it_takes_up_the_newest(bench: Bench, worker: Worker) -> None:
    worker.start()
    assert epochs(worker) == (1, 0)
    for epoch in (2, 4, 3):
        announce(bench, epoch, bundled())
    worker.follow(owner())
    assert epochs(worker) == (4, 0)


def test_what_is_no_change_is_passed_over(bench: Bench, worker: Worker) -> None:
    bench.bus.publish([Outgoing(topics.MODELS, b"x", b"not a change")])
    worker.start()
    bench.bus.publish([Outgoing(topics.MODELS, b"x", b"{}")])
    announce(bench, 2, bundled())
    worker.follow(owner())
    assert epochs(worker) == (2, 0)


def test_a_promotion_is_not_forgotten_while_the_database_is_away(
    bench: Bench, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.start()
    announce(bench, 2, bundled())

    def away(_: str) -> Engine:
        raise Transient("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(worker, "_load", away)
        with pytest.raises(Transient):
            worker.follow(owner())
    assert epochs(worker) == (1, 0)
    worker.follow(owner())
    assert epochs(worker) == (2, 0)


def test_one_that_cannot_be_served_is_refused_and_its_predecessor_goes_on(bench: Bench, worker: Worker) -> None:
    worker.start()
    announce(bench, 2, "nowhere")
    worker.follow(owner(1))
    assert epochs(worker) == (1, 2)
    announce(bench, 3, bundled())
    worker.follow(owner(1))
    assert epochs(worker) == (3, 0)


def test_a_restart_leaves_the_predecessor_in_service_too(bench: Bench, worker: Worker) -> None:
    announce(bench, 2, "nowhere")
    worker.start()
    assert epochs(worker) == (1, 2)


def test_a_partition_of_a_worker_that_serves_what_this_one_refused_is_let_go(bench: Bench, worker: Worker) -> None:
    worker.start()
    announce(bench, 2, "nowhere")
    worker.follow(owner(1))
    with pytest.raises(Fatal, match="epoch 2"):
        worker.follow(owner(2))


def test_with_no_model_that_can_be_served_it_ends(
    bench: Bench, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    announce(bench, 1, "nowhere")
    with pytest.raises(Fatal, match="nowhere"):
        made(bench, engine, monkeypatch).start()


def test_without_any_promotion_it_waits(bench: Bench, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Transient, match="no model has been promoted"):
        made(bench, engine, monkeypatch).start()


def test_a_shadow_is_offered_what_the_champion_could_score(
    worker: Worker, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.start()
    score, offered = engine.score, []

    def fails_on_one(texts: list[str]) -> Any:
        return [Rejected("encoder") if text == "odd" else a for text, a in zip(texts, score(texts), strict=True)]

    monkeypatch.setattr(worker.current.engine, "score", fails_on_one)
    monkeypatch.setattr(worker._shadow, "offer", offered.append)
    events = [clean_text(text, text) for text in ("Profit rises", "odd", "Profit falls")]
    records = [Record(event.topic, 0, n, 1, event.key, event.value) for n, event in enumerate(events)]
    answers = worker.step([*records, Record(topics.CLEAN, 0, 3, 1, b"x", b"no event")])
    assert [isinstance(answer, Rejected) for answer in answers] == [False, True, False, True]
    assert [[text.text_id for text, _ in batch] for batch in offered] == [["Profit rises", "Profit falls"]]
