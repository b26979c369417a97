"""The shadow: it scores a sample beside the champion, for a share of the time, and nothing of it reaches the stream."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from loop.conftest import Opened
from loop.makers import clean_text
from loop.scoring import Predictions, Scorer, Stream, add_model, database, eventually, promote, tampered
from prometheus_client import REGISTRY

from services import status, store
from services.runtime import Context
from services.score import worker
from services.score.engine import Engine, Scored
from services.score.lanes import Priority
from services.score.shadow import TEXTS, WAITING, Batch, Duty, Shadow
from services.settings import Settings
from services.stream import topics
from services.stream.bus import Bus, Outgoing, Record
from services.stream.errors import Rejected, Transient
from services.stream.events import CleanText, ModelChange, Prediction, decode, prediction_id
from services.trainer import registry
from services.trainer.comparison import Compared, compared
from services.trainer.promotion import Promoter

# ── the share of time ───────────────────────────────────────────────────────────────────────────────────────────────


class Clock:
    """Time passes only as it is told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.rests: list[float] = []

    def __call__(self) -> float:
        return self.now

    def rest(self, seconds: float) -> None:
        self.rests.append(seconds)
        self.now += seconds


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1, 0.01])
def test_work_takes_its_share_of_the_time_however_long_each_piece(share: float) -> None:
    clock = Clock()
    duty = Duty(share, clock.rest, clock)
    for seconds in (0.5, 0.001, 3.0, 0.0):
        with duty.work():
            clock.now += seconds
    assert clock.rests[0] == pytest.approx(0.5 * (1 / share - 1))
    assert 3.501 / clock.now == pytest.approx(share)


def test_work_that_fails_is_followed_by_rest_too() -> None:
    clock = Clock()
    with pytest.raises(OSError, match="lost"), Duty(0.1, clock.rest, clock).work():
        clock.now += 2
        raise OSError("lost")
    assert clock.rests == [pytest.approx(18)]


# ── the thread ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Fake:
    """An engine that takes its time, a bus that may be away, and what became of both."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.busy = threading.Event()
        self.card = type("Card", (), {"languages": ()})
        self.away = self.breaks = False
        self.published: list[Prediction] = []
        self.priorities: set[Priority] = set()
        self.largest = 0
        self.closed = 0

    def score(self, texts: Sequence[str], priority: Priority) -> list[Scored | Rejected]:
        self.busy.set()
        assert self.go.wait(30)
        self.priorities.add(priority)
        self.largest = max(self.largest, len(texts))
        if self.breaks:
            raise ValueError("this model has a defect")
        answer = Scored("neutral", (0.1, 0.8, 0.1), False)
        return [Rejected("encoder") if text == "odd" else answer for text in texts]

    def publish(self, events: Sequence[Outgoing]) -> Sequence[Any]:
        if self.away:
            raise Transient("the server is away")
        assert {event.topic for event in events} <= {topics.SHADOW}
        self.published += [decode(Prediction, event.value) for event in events]
        return ()

    def close(self) -> None:
        self.closed += 1


def change(epoch: int, version: str) -> ModelChange:
    return ModelChange(epoch=epoch, version=version, action="shadow", previous="champion", at=1)


def batch(*texts: str, name: str = "t") -> Batch:
    events = [clean_text(f"{name}{number}", text) for number, text in enumerate(texts)]
    return [
        (decode(CleanText, event.value), Record(event.topic, 1, number, 1, event.key, event.value))
        for number, event in enumerate(events)
    ]


def count(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"tickerloop_shadow_{name}_total", labels) or 0


def begun(fake: Fake, version: str, epoch: int = 2) -> Shadow:
    shadow = Shadow(lambda _: cast(Engine, fake), lambda: cast(Bus, fake), 1.0)
    shadow.follow(change(epoch, version))
    eventually(lambda: shadow.state is not None and shadow.state.state == "scoring", "it is not loaded")
    return shadow


def test_it_publishes_what_the_champion_scored_under_its_own_name() -> None:
    fake = Fake()
    shadow = begun(fake, "plain")
    shadow.offer(batch("one", "odd", "two"))
    eventually(lambda: len(fake.published) == 2, "nothing was published")
    shadow.follow(None)
    eventually(lambda: fake.closed == 1, "it did not end")
    assert fake.priorities == {Priority.BACKGROUND}
    assert [(p.text_id, p.model, p.epoch, p.origin.partition, p.origin.offset) for p in fake.published] == [
        ("t0", "plain", 2, 1, 0), ("t2", "plain", 2, 1, 2),
    ]  # fmt: skip
    assert fake.published[0].prediction_id == prediction_id("t0", "plain")
    assert (count("scored", model="plain"), count("dropped", model="plain", reason="failed")) == (2, 1)


def test_on_how_many_texts_it_failed_is_told_and_a_lost_server_is_no_failure_of_its_own() -> None:
    fake = Fake()
    shadow = begun(fake, "failures")
    fake.away = True
    shadow.offer(batch("one", "odd", "two"))
    eventually(lambda: count("dropped", model="failures", reason="failed") == 3, "it was not counted")
    eventually(lambda: shadow.state is not None and shadow.state.failed == 1, "it is not told")
    fake.away, fake.breaks = False, True
    shadow.offer(batch("three", "four", name="next"))
    eventually(lambda: shadow.state is not None and shadow.state.failed == 3, "it is not told")
    shadow.follow(None)


def test_what_comes_while_it_is_busy_is_left_out() -> None:
    fake = Fake()
    shadow = begun(fake, "busy")
    fake.go.clear()
    shadow.offer(batch("first"))
    assert fake.busy.wait(30)
    for number in range(WAITING + 3):
        shadow.offer(batch("a", "b", name=f"{number}-"))
    assert count("dropped", model="busy", reason="busy") == 3 * 2
    fake.go.set()
    eventually(lambda: len(fake.published) == 1 + 2 * WAITING, "what waited was not scored")
    shadow.follow(None)


def test_a_large_batch_is_taken_in_pieces_as_far_as_there_is_room() -> None:
    fake = Fake()
    shadow = begun(fake, "large")
    fake.go.clear()
    shadow.offer(batch("first"))
    assert fake.busy.wait(30)
    shadow.offer(batch(*["more"] * (TEXTS * (WAITING + 1) + 5), name="more"))
    assert count("dropped", model="large", reason="busy") == TEXTS + 5
    fake.go.set()
    eventually(lambda: len(fake.published) == 1 + TEXTS * WAITING, "what waited was not scored")
    assert fake.largest == TEXTS
    shadow.follow(None)


def test_what_fails_is_left_out_and_the_next_is_scored() -> None:
    fake = Fake()
    shadow = begun(fake, "failing")
    fake.away = True
    shadow.offer(batch("a", "b"))
    eventually(lambda: count("dropped", model="failing", reason="failed") == 2, "it was not counted")
    fake.away = False
    shadow.offer(batch("c", name="next"))
    eventually(lambda: [p.text_id for p in fake.published] == ["next0"], "it did not go on")
    shadow.follow(None)


def test_one_at_a_time_and_the_same_change_begins_once() -> None:
    fakes = {"one": Fake(), "other": Fake()}
    loaded: list[str] = []

    def load(version: str) -> Engine:
        loaded.append(version)
        return cast(Engine, fakes[version])

    shadow = Shadow(load, lambda: cast(Bus, fakes[loaded[-1]]), 1.0)
    for _ in range(3):
        shadow.follow(change(2, "one"))
    eventually(lambda: shadow.state is not None and shadow.state.state == "scoring", "it is not loaded")
    fakes["one"].go.clear()
    shadow.offer(batch("a"))
    assert fakes["one"].busy.wait(30)
    shadow.follow(change(3, "other"))
    assert shadow.state is not None and (shadow.state.model, shadow.state.state) == ("other", "loading")
    shadow.offer(batch("while it loads"))
    fakes["one"].go.set()
    eventually(lambda: shadow.state is not None and shadow.state.state == "scoring", "it is not loaded")
    assert loaded == ["one", "other"] and fakes["one"].closed == 1
    shadow.offer(batch("b"))
    eventually(lambda: [p.model for p in fakes["other"].published] == ["other"], "it does not score")
    shadow.follow(None)
    shadow.offer(batch("after its end"))
    eventually(lambda: fakes["other"].closed == 1, "it did not end")
    assert shadow.state is None and len(fakes["other"].published) == 1


def test_a_server_that_is_away_is_waited_for_and_a_model_that_breaks_is_refused() -> None:
    tries: list[str] = []

    def load(version: str) -> Engine:
        tries.append(version)
        raise Transient("away") if len(tries) < 3 else MemoryError("no room for it")

    shadow = Shadow(load, lambda: cast(Bus, Fake()), 0.1)
    shadow.follow(change(2, "broken"))
    eventually(lambda: shadow.state is not None and shadow.state.state == "refused", "it is not refused")
    assert shadow.state is not None and shadow.state.reason == "no room for it" and len(tries) == 3
    shadow.offer(batch("a"))
    assert count("dropped", model="broken", reason="busy") == 0
    shadow.follow(None)
    assert shadow.state is None


# ── in a scorer ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def busy(settings: Settings, valkey_url: str) -> Settings:
    """Shadows may work all the time."""
    return msgspec.structs.replace(settings, redis=valkey_url, shadow_share=1.0)


@contextmanager
def deciding(settings: Settings) -> Iterator[Promoter]:
    with closing(settings.open_bus("test")) as bus:
        yield Promoter(bus, settings.connector("test"), settings.prepare_s)


def begin(settings: Settings, version: str) -> int:
    with deciding(settings) as promoter:
        return promoter.shadow(version, actor="ana", reason="a test").epoch


def end(settings: Settings) -> int:
    with deciding(settings) as promoter:
        return promoter.unshadow(actor="ana", reason="a test").epoch


def says(scorer: Scorer) -> str:
    """What it says of its shadow; '' where it has none."""
    return str(scorer.context.detail.get("shadow", {}).get("state", ""))


@contextmanager
def storing(settings: Settings) -> Iterator[None]:
    context = Context(settings, "store")
    thread = threading.Thread(target=store.serve, args=(context,), daemon=True)
    thread.start()
    yield
    context.stop.set()
    thread.join(20)


def look(settings: Settings, version: str) -> Compared:
    with database(settings) as cursor:
        return compared(cursor, next(v for v in registry.versions(cursor) if v.version == version))


@pytest.mark.usefixtures("opened")
def test_it_scores_beside_the_champion_which_is_as_it_was(busy: Settings, engine: Engine) -> None:
    version = add_model(busy, engine, 9.0)
    with (
        storing(busy),
        Scorer(busy) as scorer,
        Predictions(busy) as predictions,
        Predictions(busy, topics.SHADOW) as shadows,
    ):
        with Stream(busy) as stream:
            predictions.wait_for(20)
            assert begin(busy, version) == 2
            shadows.wait_for(50)
        eventually(lambda: len(predictions.all()) >= stream.sent, "the stream stands still")
        assert says(scorer) == "scoring" and scorer.epoch == 1
        found, shadowed = predictions.all(), shadows.all()
        assert {(p.model, p.epoch) for p in found} == {(engine.card.version, 1)}
        assert len(found) == len({p.text_id for p in found}) == stream.sent
        for partition in (0, 1):
            offsets = [p.origin.offset for p in found if p.origin.partition == partition]
            assert offsets == sorted(offsets), "the order is the texts'"
        assert {(p.model, p.epoch) for p in shadowed} == {(version, 2)}
        champions = {p.text_id: p for p in found}
        for said in shadowed:
            assert said.prediction_id == prediction_id(said.text_id, version)
            assert said.origin == champions[said.text_id].origin
        eventually(lambda: (c := look(busy, version).comparison) is not None and c.n >= 50, "it is not in the table")
        eventually(lambda: status.collect(busy).account.scored == stream.sent, "the account is another")
        comparison = look(busy, version).comparison
        assert comparison is not None
        assert sum(row["positive"] for row in comparison.labels.values()) == comparison.n, "its bias is a large one"


@pytest.mark.usefixtures("opened")
def test_it_ends_by_command_and_with_its_champion_and_a_scorer_that_comes_later_takes_it_up(
    busy: Settings, engine: Engine
) -> None:
    version, other = add_model(busy, engine), add_model(busy, engine, 0.02)
    with Stream(busy), Predictions(busy) as predictions, Predictions(busy, topics.SHADOW) as shadows:
        with Scorer(busy) as scorer:
            begin(busy, other)
            eventually(lambda: says(scorer) == "scoring", "it does not begin")
            end(busy)
            eventually(lambda: says(scorer) == "", "it does not end")
            begin(busy, version)
        with Scorer(busy) as scorer:
            eventually(lambda: says(scorer) == "scoring", "it is not taken up")
            shadows.wait_for(20)
            assert promote(busy, version) == 5
            eventually(lambda: scorer.epoch == 5 and says(scorer) == "", "it does not end")
            eventually(lambda: not alive("shadow"), "its thread goes on")
            before = len(shadows.all())
            predictions.wait_for(50)
            assert len(shadows.all()) == before
            assert {p.epoch for p in predictions.all()} == {1, 5}
    with database(busy) as cursor, closing(busy.open_bus("test")) as bus:
        assert registry.verify(registry.ledger(cursor), registry.announced(bus)) == []


def alive(name: str) -> bool:
    return any(thread.name == name for thread in threading.enumerate())


def test_one_that_can_not_be_loaded_is_told_and_the_champion_goes_on(
    busy: Settings, engine: Engine, opened: Opened
) -> None:
    with Scorer(busy) as scorer, Stream(busy), Predictions(busy) as predictions:
        version = tampered(busy, engine)
        begin(busy, version)
        eventually(lambda: says(scorer) == "refused", "it is not told")
        shown = scorer.context.detail["shadow"]
        assert (shown["model"], shown["epoch"]) == (version, 2) and "recorded hash" in shown["reason"]
        predictions.wait_for(50)
        assert {p.epoch for p in predictions.all()} == {1} and version not in opened
        begin(busy, add_model(busy, engine, 0.02))
        eventually(lambda: says(scorer) == "scoring", "a good one does not begin")


@pytest.mark.parametrize("settings", ["embedded"], indirect=True)
@pytest.mark.usefixtures("opened")
def test_the_stream_goes_on_while_it_is_loaded(busy: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    version, go_on, share = add_model(busy, engine), threading.Event(), worker.open_engine

    def slow(folder: Path, **options: Any) -> Engine:
        if folder.name == version:
            assert go_on.wait(60)
        return share(folder, **options)

    monkeypatch.setattr(worker, "open_engine", slow)
    with Scorer(busy) as scorer, Stream(busy), Predictions(busy) as predictions:
        begin(busy, version)
        eventually(lambda: says(scorer) == "loading", "it does not begin")
        predictions.wait_for(50)
        assert says(scorer) == "loading"
        go_on.set()
        eventually(lambda: says(scorer) == "scoring", "it is not loaded")
