"""Feedback: routed with lineage, idempotent, waits for its prediction, refused with a reason."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import closing

import msgspec
import pytest
from kafka_broker import Broker
from loop.conftest import Bench, forget_topics
from loop.makers import feedback, prediction, published

from services import store
from services.deadletters import describe, letters
from services.feedback import service
from services.feedback.gold import gold
from services.runtime import Context
from services.settings import Settings
from services.stream import topics
from services.stream.bus import Outgoing, TopicPartition
from services.stream.events import Example, Label, feedback_id, in_holdout, withdrawal_id
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


def _back(text_id: str, word: str, annotator: str = "ana", **changes: object) -> Outgoing:
    return feedback(withdrawal_id(word), text_id, None, "withdrawal", annotator, withdraws=word, **changes)


def test_a_withdrawn_word_counts_no_more_and_can_be_said_again(bench: Bench) -> None:
    _stored(bench, prediction("a", "positive"))
    word = feedback_id(predicted("a", "m1"), "ana", "negative")
    for number in range(3):  # in one batch, and over batches
        bench.bus.publish([_word("a", "negative"), _word("a", "negative"), _back("a", word), _back("a", word)])
        if number == 1:
            bench.run(service.serve, lambda: _done(bench))
    bench.run(service.serve, lambda: _done(bench))
    assert _reasons(bench) == []
    said = [(e.kind, e.label, e.feedback_id == word) for e in _examples(bench)]
    assert said == [("correction", "negative", True), ("withdrawal", None, True), ("correction", "negative", False)]
    bench.run(trainer.serve, lambda: bench.caught_up(trainer.GROUP, topics.EXAMPLES))
    assert bench.rows("SELECT kind FROM example ORDER BY position") == [
        ("correction",),
        ("withdrawal",),
        ("correction",),
    ]
    assert bench.rows("SELECT label, who FROM word") == [("negative", "ana")]


def test_a_withdrawal_must_be_of_a_word_there_is_and_ones_own(bench: Bench) -> None:
    _stored(bench, prediction("a", "positive"), prediction("b", "positive"))
    bench.bus.publish([feedback("w1", "a", "negative"), feedback("w2", "b", "negative")])
    bench.run(service.serve, lambda: _done(bench))
    bench.bus.publish([_back("a", "w1", "bob"), _back("a", "w0"), _back("a", "w2")])
    bench.run(service.serve, lambda: _done(bench))
    assert _reasons(bench) == ["not_yours", "unknown_word", "wrong_text"]
    bench.bus.publish([_back("a", "w1", "boss", role="operator"), _back("b", "w2", "who", role="local")])
    bench.run(service.serve, lambda: _done(bench))
    assert len(_reasons(bench)) == 3
    assert sorted(e.feedback_id for e in _examples(bench) if e.kind == "withdrawal") == ["w1", "w2"]


def test_flags_and_comments_change_no_label(bench: Bench) -> None:
    _stored(bench, prediction("a", "positive"))
    flag = feedback("f1", "a", None, "flag", flag="spam")
    comment = feedback("c1", "a", None, "comment")
    bench.bus.publish([_word("a", "negative"), flag, flag, comment, comment])
    bench.run(service.serve, lambda: _done(bench))
    assert [(e.kind, e.label, e.flag) for e in _examples(bench)] == [
        ("correction", "negative", None), ("flag", None, "spam"),
    ]  # fmt: skip
    assert bench.rows("SELECT kind, flag FROM feedback ORDER BY position") == [
        ("correction", None), ("flag", "spam"), ("comment", None),
    ]  # fmt: skip


def test_an_outcome_may_confirm_as_well_as_correct(bench: Bench) -> None:
    _stored(bench, prediction("a", "positive"), prediction("b", "positive"))
    bench.bus.publish([feedback("o1", "a", "positive", "outcome"), feedback("o2", "b", "negative", "outcome")])
    bench.run(service.serve, lambda: _done(bench))
    assert {(e.kind, e.label) for e in _examples(bench)} == {("outcome", "positive"), ("outcome", "negative")}


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "flag"},
        {"kind": "flag", "flag": "spam", "label": "negative"},
        {"kind": "correction", "label": None},
        {"kind": "comment", "label": "negative"},
        {"kind": "withdrawal"},
        {"kind": "correction", "label": "negative", "withdraws": "w1"},
    ],
)
def test_a_word_has_what_its_kind_says(bench: Bench, fields: dict[str, object]) -> None:
    body = {"feedback_id": "x", "prediction_id": "p", "text_id": "a", "annotator": "ana", "given": 1} | fields
    bench.bus.publish([Outgoing(topics.FEEDBACK, b"a", json.dumps(body).encode())])
    bench.run(service.serve, lambda: _done(bench))
    assert _reasons(bench) == ["invalid"]


def test_answers_to_gold_questions_measure_and_go_no_further(bench: Bench) -> None:
    question, anchor = next(iter(gold().items()))
    wrong: Label = "negative" if anchor.label != "negative" else "positive"

    def answer(key: str, label: Label) -> Outgoing:
        event = msgspec.json.decode(feedback(key, "g", label).value) | {"prediction_id": question}
        return Outgoing(topics.FEEDBACK, b"g", json.dumps(event).encode())

    withdrawal = msgspec.json.decode(_back("g", "g1").value) | {"prediction_id": question}
    bench.bus.publish([answer("g1", wrong), answer("g2", anchor.label), answer("g2", anchor.label)])
    bench.bus.publish([Outgoing(topics.FEEDBACK, b"g", json.dumps(withdrawal).encode())])
    bench.run(service.serve, lambda: _done(bench))
    assert _reasons(bench) == [] and _examples(bench) == []
    kept = bench.rows('SELECT feedback_id, annotator, role, gold, label, "right" FROM gold_answer')
    assert kept == [("g2", "ana", "annotator", anchor.id, anchor.label, True)]
    assert bench.rows("SELECT count(*) FROM feedback") == [(3,)], "history is kept"


def test_words_are_set_aside_while_the_service_runs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "LOOK_EVERY_S", 0.1)
    names = [f"t{n}" for n in range(70)]
    _stored(bench, *map(prediction, names))
    bench.bus.publish([_word(name, "negative", given=5_000 + n) for n, name in enumerate(names)])
    bench.run(service.serve, lambda: _done(bench))
    bench.run(trainer.serve, lambda: bench.caught_up(trainer.GROUP, topics.EXAMPLES))
    bench.run(service.serve, lambda: bool(bench.rows("SELECT 1 FROM quarantine")))
    ((annotator, words),) = bench.rows(
        "SELECT annotator, array_length(words, 1) FROM quarantine WHERE reason = 'burst'"
    )
    assert (annotator, words) == ("ana", 70)


def test_a_withdrawal_reaches_the_trainer_behind_its_word(settings: Settings, valkey_url: str) -> None:
    """On both buses: one text's words are in one partition of either topic."""
    with closing(settings.open_bus("test")) as bus:
        bench = Bench(msgspec.structs.replace(settings, redis=valkey_url), bus)
        _stored(bench, *(prediction(name) for name in "abcdef"))
        for name in "abcdef":
            word = feedback_id(predicted(name, "m1"), "ana", "negative")
            bus.publish([_word(name, "negative"), _back(name, word)])
        bench.run(service.serve, lambda: _done(bench))
        bench.run(trainer.serve, lambda: bench.rows("SELECT count(*) FROM example") == [(12,)])
        kinds = bench.rows("SELECT text_id, array_agg(kind ORDER BY position) FROM example GROUP BY text_id")
        assert dict(kinds) == {name: ["correction", "withdrawal"] for name in "abcdef"}
        assert bench.rows("SELECT * FROM word") == []


@pytest.mark.kafka
def test_ends_of_transactions_on_kafka_are_not_waited_for(database: str, kafka_broker: Broker) -> None:
    """After a transaction the end of `predictions` lies past the last record, where the store never comes."""
    forget_topics(kafka_broker)
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
