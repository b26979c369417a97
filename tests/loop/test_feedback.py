"""Feedback: routed with lineage, idempotent, waits for its prediction, refused with a reason."""

from __future__ import annotations

import threading
import time

import msgspec
from loop.conftest import Bench
from loop.makers import feedback, prediction, published

from services import feedback as service
from services import store
from services.deadletters import describe, letters
from services.stream import topics
from services.stream.events import Example, in_holdout


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
