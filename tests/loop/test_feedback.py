"""Feedback: routed with lineage, idempotent, waits for its prediction, refused with a reason."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing

import msgspec
import pytest
from kafka_broker import Broker
from loop.conftest import Bench
from loop.makers import feedback, prediction, published

from services import feedback as service
from services import store
from services.deadletters import describe, letters
from services.runtime import Context
from services.settings import Settings
from services.stream import topics
from services.stream.bus import Outgoing, TopicPartition
from services.stream.events import Example, Label, feedback_id, in_holdout
from services.stream.events import prediction_id as predicted
from services.stream.loop import Hooks
from services.trainer import registry
from services.trainer import service as trainer
from services.trainer.promotion import Promoter


def _done(bench: Bench) -> bool:
    return bench.caught_up("feedback", topics.FEEDBACK)


def _examples(bench: Bench) -> list[Example]:
    reader = bench.bus.reader([topics.EXAMPLES])
    return [msgspec.json.decode(r.value, type=Example) for r in reader.poll(0.5)]


def _reasons(bench: Bench) -> list[str]:
    return sorted(describe(r).reason for r in letters(bench.bus, topics.dead(topics.FEEDBACK)))


def _stored(bench: Bench, *events: object) -> None:
    bench.bus.publish([published(e) for e in events])  # type: ignore[arg-type]
    bench.run(store.serve, lambda: bench.caught_up(store.GROUP, topics.PREDICTIONS))


def test_becomes_one_example_with_its_lineage(bench: Bench) -> None:
    _stored(bench, prediction("a", "positive"))
    bench.bus.publish([feedback("k1", "a", "negative"), feedback("k1", "a", "negative")])
    bench.run(service.serve, lambda: _done(bench))
    (example,) = _examples(bench)
    assert (example.predicted, example.label, example.model, example.epoch) == ("positive", "negative", "m1", 1)
    assert example.holdout == in_holdout("a")
    assert bench.rows("SELECT feedback_id, annotator FROM feedback") == [("k1", "ana")]


def test_refuses_with_reasons(bench: Bench) -> None:
    _stored(bench, prediction("a", "positive"), prediction("b", "positive"))
    wrong_text = feedback("k4", "b", "negative")
    wrong_text = wrong_text._replace(value=wrong_text.value.replace(b'"text_id":"b"', b'"text_id":"zz"'))
    bench.bus.publish(
        [
            feedback("k1", "nobody", "negative"),
            feedback("k2", "a", "positive", "correction"),
            feedback("k3", "a", "negative", "confirmation"),
            wrong_text,
            feedback("k5", "a", "negative")._replace(value=b'{"label": "bullish"}'),
        ]
    )
    bench.run(service.serve, lambda: _done(bench))
    assert _reasons(bench) == ["contradiction", "contradiction", "invalid", "unknown_prediction", "wrong_text"]
    assert _examples(bench) == []


def test_waits_for_a_prediction_that_the_store_has_not_written(bench: Bench) -> None:
    bench.bus.publish([published(prediction("late", "positive"))])
    bench.bus.publish([feedback("k1", "late", "negative")])
    waiting = threading.Thread(target=lambda: bench.run(service.serve, lambda: _done(bench)))
    waiting.start()
    time.sleep(1.0)
    assert not _done(bench), "it must wait while the store is behind"
    bench.run(store.serve, lambda: bench.caught_up(store.GROUP, topics.PREDICTIONS))
    waiting.join(30)
    assert [e.text_id for e in _examples(bench)] == ["late"]
    assert _reasons(bench) == []


def _word(text_id: str, label: Label, key: str | None = None, **changes: object) -> Outgoing:
    """A word as the gateway sends it: of `ana`, on a prediction of `positive`."""
    name = feedback_id(predicted(text_id, "m1"), "ana", label, key)
    return feedback(name, text_id, label, "confirmation" if label == "positive" else "correction", **changes)


def test_words_on_unknown_predictions_end_after_one_wait(bench: Bench) -> None:
    """Each goal is out of reach at its first look, as on a log that is never at rest."""
    goals: list[list[bool]] = []

    def progress() -> Callable[[], bool]:
        looks: list[bool] = []
        goals.append(looks)

        def reached() -> bool:
            looks.append(True)
            return len(looks) > 1

        return reached

    bench.bus.publish([feedback("k0", "lost", "negative"), feedback("k1", "lost", "neutral")])
    bench.bus.publish([feedback(f"n{n}", f"gone{n}", "negative") for n in range(20)])
    route = service.Route(progress)

    def serve(context: Context) -> None:
        context.loop("feedback", topics.FEEDBACK, hooks=Hooks(after=route.committed)).sink(route)

    bench.run(serve, lambda: _done(bench))
    assert _reasons(bench) == ["unknown_prediction"] * 22
    assert len(goals) <= 4, "one per batch"
    assert all(len(looks) == 2 for looks in goals)


def test_the_last_word_counts_and_a_repeat_does_not(bench: Bench) -> None:
    _stored(bench, prediction("a", "positive"))
    labels: list[Label] = ["negative", "negative", "neutral", "negative", "negative"]
    for number, label in enumerate(labels):
        bench.bus.publish([_word("a", label)._replace(key=b"a")])
        if number % 2:  # some in one batch, some over batches
            bench.run(service.serve, lambda: _done(bench))
    bench.run(service.serve, lambda: _done(bench))
    assert [example.label for example in _examples(bench)] == ["negative", "neutral", "negative"]
    assert len({example.example_id for example in _examples(bench)}) == 3
    assert _reasons(bench) == []


def test_under_a_key_a_word_counts_once_and_another_word_is_refused(bench: Bench) -> None:
    _stored(bench, prediction("a", "positive"))
    words = [_word("a", "negative", "k1"), _word("a", "neutral", "k2"), _word("a", "negative", "k1")]
    bench.bus.publish([*words, _word("a", "neutral", "k1")])
    bench.run(service.serve, lambda: _done(bench))
    assert [example.label for example in _examples(bench)] == ["negative", "neutral"]
    assert _reasons(bench) == ["key_reused"]


def test_only_a_held_out_text_can_have_been_sampled(bench: Bench) -> None:
    held, free = (next(f"t{n}" for n in range(99) if in_holdout(f"t{n}") == wanted) for wanted in (True, False))
    _stored(bench, prediction(held), prediction(free))
    bench.bus.publish([_word(held, "positive", sampled=True), _word(free, "positive", sampled=True)])
    bench.run(service.serve, lambda: _done(bench))
    assert {(e.text_id, e.sampled, e.holdout) for e in _examples(bench)} == {(held, True, True), (free, False, False)}


def test_a_label_of_a_version_long_gone_is_taken_and_trained_on(bench: Bench) -> None:
    files = {"head.safetensors": b"{}", "model.json": b"{}"}
    bench.bus.write(lambda cursor: registry.register(cursor, "now", None, files) or [])  # type: ignore[func-returns-value]
    Promoter(bench.bus, bench.settings.connector("test"), 0).promote("now", actor="ana", reason="first", evidence={})
    _stored(bench, prediction("a", "positive"))
    bench.bus.publish([_word("a", "negative")])
    bench.run(service.serve, lambda: _done(bench))
    bench.run(trainer.serve, lambda: bench.caught_up(trainer.GROUP, topics.EXAMPLES))
    assert bench.rows("SELECT text_id, label, model FROM example") == [("a", "negative", "m1")]


@pytest.mark.kafka
def test_ends_of_transactions_on_kafka_are_not_waited_for(database: str, kafka_broker: Broker) -> None:
    """After a transaction the end of `predictions` lies past the last record, where the store never comes."""
    settings = Settings(database=database, bus=f"kafka://{kafka_broker.bootstrap}", partitions=1)
    place = TopicPartition(topics.PREDICTIONS, 0)
    with closing(settings.open_bus("test")) as bus:
        bus.create_topics()
        progress = service.StoreProgress(bus)
        assert progress()(), "an empty log holds nothing back"
        bus.publish([published(prediction("a")), published(prediction("b"))])
        deadline = time.monotonic() + 10
        while bus.ends(topics.PREDICTIONS)[place] < 3 and time.monotonic() < deadline:
            time.sleep(0.05)  # a commit is answered before its end is written
        reached = progress()
        assert not reached()
        bus.seek(store.GROUP, {place: 2})
        assert reached()
