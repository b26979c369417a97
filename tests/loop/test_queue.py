"""The retraining queue: read again from the log it gives the same dataset, and it says when and why it trains."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import msgspec
import psycopg2
import pytest
from click.testing import CliRunner
from loop.conftest import Bench
from loop.scoring import eventually
from psycopg2.extensions import cursor as Cursor
from trainer.dataset_kit import FREE, HELD, said, text, words

from services.cli import main
from services.runtime import Context, now_ms
from services.settings import Settings
from services.stream import topics
from services.stream.bus import Outgoing
from services.stream.events import LABELS, Example, encode, in_holdout
from services.trainer import drift, evaluations, manifest, observed, triggers
from services.trainer.assembly import assemble
from services.trainer.service import GROUP, evaluate, keep, watch
from services.trainer.setup import register_bundled


@contextmanager
def database(settings: Settings) -> Iterator[Cursor]:
    with closing(psycopg2.connect(settings.database)) as connection, connection, connection.cursor() as cursor:
        yield cursor


def example(name: str, label: int, given: int = 1) -> Outgoing:
    event = Example(
        example_id=f"{name}-{given}", feedback_id=f"w-{name}-{given}", prediction_id="p", text_id=name, cluster=name,
        predicted="neutral", label=LABELS[label], model="m", epoch=1, annotator="ana", role="operator",
        sampled=in_holdout(name), holdout=in_holdout(name), given=given,
    )  # fmt: skip
    return Outgoing(topics.EXAMPLES, name.encode(), encode(event))


def taken(settings: Settings, count: int) -> None:
    """Run the trainer's step until that many examples are in their table."""

    def stored() -> bool:
        with database(settings) as cursor:
            cursor.execute("SELECT count(*) FROM example")
            return cursor.fetchone() == (count,)

    context = Context(settings, "trainer")
    thread = threading.Thread(target=lambda: context.loop(GROUP, topics.EXAMPLES).sink(keep))
    thread.start()
    try:
        eventually(stored, "the examples were not taken in")
    finally:
        context.stop.set()
        thread.join(20)


def test_a_dataset_is_read_again_from_the_log(settings: Settings) -> None:
    names = [*HELD[:10], *FREE[:20]]
    with database(settings) as cursor:
        for number, name in enumerate([*names, *FREE[20:30]]):
            text(cursor, name, words(number))
    with closing(settings.open_bus("test")) as bus:
        bus.publish([example(name, number % 3) for number, name in enumerate(names)])
        # Told again in the same moment: the order within a partition decides.
        bus.publish(
            [
                example(name, (number + 1) % 3)._replace(value=_again(name, number))
                for number, name in enumerate(names[:15])
            ]
        )
        taken(settings, 45)
        with database(settings) as cursor:
            first = manifest.of(assemble(cursor))
        assert {e.role for e in first.entries} == set(manifest.ROLES) and len(first.cut.examples) == 2

        with database(settings) as cursor:
            for number, name in enumerate(FREE[30:40]):
                text(cursor, name, words(100 + number))
        bus.publish([example(name, 2, given=9) for name in [*names[5:15], *FREE[20:40]]])
        taken(settings, 75)
        with database(settings) as cursor:
            assert manifest.of(assemble(cursor)).hash != first.hash
            assert manifest.of(assemble(cursor, cut=first.cut)).hash == first.hash
            cursor.execute("DELETE FROM example")
        bus.seek(GROUP, bus.begins(topics.EXAMPLES))
        taken(settings, 75)
    with database(settings) as cursor:
        again = manifest.of(assemble(cursor, cut=first.cut))
    assert again == first


def _again(name: str, number: int) -> bytes:
    first = msgspec.json.decode(example(name, (number + 1) % 3).value)
    return msgspec.json.encode(first | {"example_id": f"{name}-again", "feedback_id": f"w-{name}-again"})


@pytest.fixture
def desk(bench: Bench) -> Bench:
    """A champion, forty held-out texts that it got wrong, and ten others."""
    bench.settings = msgspec.structs.replace(
        bench.settings, device="cpu", retrain_after=10, retrain_every_s=10**10, retrain_below=0, shadow_texts=0
    )
    register_bundled(bench.bus)
    with database(bench.settings) as cursor:
        for number, name in enumerate([*HELD[:40], *FREE[:10]]):
            text(cursor, name, words(number))
            said(cursor, name)
    return bench


def test_numbers_are_those_of_the_tables(desk: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observed, "WINDOW", 5)
    with database(desk.settings) as cursor:
        said(cursor, HELD[0], "neutral", given=2)
        found = observed.read(cursor)
        assert (found.fresh, found.contradicting, found.held_out) == (10, 10, 40)
        assert (found.sampled, found.right) == (40, 1), "of several words on a text the last counts"
        assert (found.since, found.ended, found.running, found.look) == (1, None, False, 1)
        assert (found.predictions, found.drift) == (0, None)
        for number in range(10):
            cursor.execute(
                "INSERT INTO prediction (prediction_id, text_id, cluster, label, negative, neutral, positive, model,"
                " epoch, tickers, source, language, event_time, scored, truncated, origin_partition, origin_offset)"
                " VALUES (%s, %s, 'c', %s, 0, 0, 1, 'm', 1, '{}', 's', 'en', 0, 0, false, 0, 0)",
                (f"p{number}", f"t{number}", "positive" if number < 5 else "negative"),
            )
        found = observed.read(cursor)
        assert found.predictions == 10 and found.drift is not None
        assert found.drift.labels > drift.LARGE and found.drift.sources == found.drift.confidence == 0
        for state, upto, finished, detail in (
            ("refused", 45, 7_000, {}),
            ("failed", 50, 8_000, {"error": "no room"}),
            ("failed", 50, 9_000, {"error": "killed"}),
        ):
            cursor.execute(
                "INSERT INTO training_run (trigger, state, upto, detail, started, finished)"
                " VALUES ('volume', %s, %s, %s, 0, %s)",
                (state, upto, json.dumps(detail), finished),
            )
        found = observed.read(cursor)
        assert (found.fresh, found.contradicting, found.since, found.ended) == (5, 5, 7_000, 8_000)


def test_what_is_set_aside_asks_for_no_run(desk: Bench) -> None:
    quarantined = "INSERT INTO quarantine (annotator, reason, subject, detail, words, found, state) VALUES"
    with database(desk.settings) as cursor:
        cursor.execute("SELECT array_agg(example_id ORDER BY example_id) FROM example WHERE NOT holdout")
        ((words,),) = cursor.fetchall()
        for reason, chosen, state in (("burst", words[:3], "held"), ("copied", words[:5], "released")):
            cursor.execute(f"{quarantined} ('ana', %s, '', '', %s, 1, %s)", (reason, chosen, state))
        assert observed.fresh(cursor) == observed.read(cursor).fresh == 7


def test_reviews_of_another_champion_tell_nothing_of_this_one(desk: Bench) -> None:
    with database(desk.settings) as cursor:
        cursor.execute("UPDATE example SET epoch = 0 WHERE text_id = ANY(%s)", (HELD[:30],))
        found = observed.read(cursor)
    assert (found.sampled, found.held_out) == (10, 40)


def test_only_the_newest_reviews_tell_how_it_does_now(desk: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observed, "REVIEWED", 15)
    with database(desk.settings) as cursor:
        for name in HELD[:15]:
            said(cursor, name, "neutral", given=2)
        found = observed.read(cursor)
    assert (found.sampled, found.right) == (15, 15)


def test_a_run_under_way_is_seen_from_elsewhere(desk: Bench) -> None:
    with closing(psycopg2.connect(desk.settings.database)) as other, other.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (observed.LOCK,))
        found = evaluate(desk.context("trainer"))
        assert found.numbers.running and not found.train and found.reason.endswith("a run is under way")
    found = evaluate(desk.context("trainer"))
    assert not found.numbers.running and found.train


def test_an_evaluation_is_written_when_it_says_something_new_and_once_in_a_while(
    desk: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written() -> list[bool]:
        return [train for (train,) in desk.rows("SELECT train FROM trigger_evaluation ORDER BY evaluation")]

    context = desk.context("trainer")
    for _ in range(3):
        assert evaluate(context).train
    assert written() == [True]
    with database(desk.settings) as cursor:
        cursor.execute("DELETE FROM example WHERE text_id = %s", (FREE[0],))
    for _ in range(3):
        assert not evaluate(context).train
    assert written() == [True, False]
    desk.rows("UPDATE trigger_evaluation SET at = at - %s RETURNING 1", evaluations.EVERY_MS + 1_000)
    for _ in range(3):
        evaluate(context)
    assert written() == [True, False, False]
    with database(desk.settings) as cursor:
        for _ in range(2):
            assert evaluations.record(cursor, triggers.by_command(observed.read(cursor)))
    assert written() == [True, False, False, True, True]
    monkeypatch.setattr(evaluations, "KEPT", 2)
    desk.rows("UPDATE trigger_evaluation SET at = 0 RETURNING 1")
    evaluate(context)
    assert written() == [True, False]


def test_a_trigger_trains_once_and_the_commands_tell_why(desk: Bench) -> None:
    context = desk.context("trainer")
    thread = threading.Thread(target=watch, args=(context,))
    thread.start()
    try:
        eventually(lambda: len(desk.rows("SELECT 1 FROM trigger_evaluation")) >= 2, "it was not looked at again", 240)
    finally:
        context.stop.set()
        thread.join(60)
    assert desk.rows("SELECT trigger, state IN ('promoted', 'refused') FROM training_run") == [("volume", True)]

    def why(*options: str) -> str:
        answer = CliRunner().invoke(
            main, ["train", "why", *options], env={"TICKERLOOP_DATABASE": desk.settings.database, "COLUMNS": "1000"}
        )
        assert answer.exit_code == 0, answer.output
        return answer.output

    newest, oldest = json.loads(why("--json"))[0], json.loads(why("--json"))[-1]
    assert oldest["reason"].startswith("yes, by volume: 10 of 10 new labels; ")
    assert oldest["numbers"]["held_out"] == 40 and 0 <= now_ms() - oldest["at"] < 300_000
    assert (
        newest["reason"].startswith("no: 0 of 10 new labels; nothing new")
        and "the cool-down ends in" in newest["reason"]
    )
    lines = why("--limit", "1").splitlines()
    assert len(lines) == 1 and newest["reason"] in lines[0]


def test_before_the_first_look_why_says_so(database: str) -> None:
    answer = CliRunner().invoke(main, ["train", "why"], env={"TICKERLOOP_DATABASE": database})
    assert answer.exit_code == 0 and "has not looked yet" in " ".join(answer.output.split())
