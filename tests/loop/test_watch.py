"""A new champion under the readers' eyes: what counts, what is found, and a bad one that is gone by itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import msgspec
import pytest
from loop.rollouts import person, rows, told, unbroken
from loop.scoring import Predictions, Scorer, Stream, add_model, broken_model, database, eventually, promote

from services.runtime import Context, now_ms
from services.score.engine import Engine
from services.settings import Settings
from services.stream import topics
from services.stream.bus import Outgoing
from services.stream.events import Example, Label, encode
from services.trainer import service, standing
from services.trainer.anchors import anchors
from services.trainer.rollout import Rollout
from services.trainer.sequential import ALPHA
from services.trainer.watch import BATCH, Watched

EMBEDDED = pytest.mark.parametrize("settings", ["embedded"], indirect=True)
KNOWN = [
    (f"anchor{number}", anchor.text, anchor.label) for number, anchor in enumerate(anchors()) if not anchor.replayed
]
"""Texts with the labels of whoever wrote them."""


def keep_texts(settings: Settings) -> None:
    with database(settings) as cursor:
        for text_id, body, _ in KNOWN:
            cursor.execute(
                "INSERT INTO text (text_id, cluster, body, source, language, marks, event_time, received)"
                " VALUES (%s, %s, %s, 'wire', 'en', '{}', 1, 1)",
                (text_id, text_id, body),
            )


def example(text_id: str, label: Label, *, given: int, sampled: bool = True, holdout: bool = True) -> Example:
    return Example(
        example_id=f"{text_id}-{given}", feedback_id="f", prediction_id="p", text_id=text_id, cluster=text_id,
        predicted="neutral", label=label, model="m", epoch=1, annotator="ana", role="operator", sampled=sampled,
        holdout=holdout, given=given,
    )  # fmt: skip


def label(settings: Settings, examples: Sequence[Example]) -> None:
    """The rows that the trainer keeps."""
    with database(settings) as cursor:
        for e in examples:
            cursor.execute(
                "INSERT INTO example (example_id, feedback_id, prediction_id, text_id, cluster, predicted, label,"
                " model, epoch, annotator, sampled, holdout, given)"
                " VALUES (%s, 'f', 'p', %s, %s, 'neutral', %s, 'm', 1, 'ana', %s, %s, %s)",
                (e.example_id, e.text_id, e.cluster, e.label, e.sampled, e.holdout, e.given),
            )


def watched(settings: Settings) -> Watched:
    with database(settings) as cursor:
        found = standing.now(cursor, settings.cooldown_s).watched
    assert found is not None
    return found


@contextmanager
def training(settings: Settings) -> Iterator[None]:
    """The trainer as a service, in threads of the test."""
    context = Context(settings, "trainer")
    thread = threading.Thread(target=service.serve, args=(context,), daemon=True)
    thread.start()
    yield
    context.stop.set()
    thread.join(20)


@pytest.mark.usefixtures("opened")
def test_a_model_made_bad_by_force_is_rolled_back_by_what_readers_say(quick: Settings, engine: Engine) -> None:
    broken, good = broken_model(quick, engine), engine.card.version
    keep_texts(quick)
    with Scorer(quick) as scorer, Stream(quick), Predictions(quick) as predictions, training(quick):
        assert promote(quick, broken) == 2
        eventually(lambda: scorer.epoch == 2, "it is not in service")
        with closing(quick.open_bus("test")) as bus:
            said = [example(text_id, right, given=now_ms()) for text_id, _, right in KNOWN[: 4 * BATCH]]
            bus.publish([Outgoing(topics.EXAMPLES, e.text_id.encode(), encode(e)) for e in said])
        eventually(lambda: told(quick)[1:] == [("rollback", good)], "it is not rolled back")
        eventually(lambda: scorer.epoch == 3, "the scorer did not go back")
        predictions.wait_for(20)
        assert predictions.all()[-1].model == good
    row = rows(quick)[-1]
    found = msgspec.convert(row.evidence, Watched)
    assert (row.actor, row.champion, found.version, found.former, found.epoch) == ("watch", broken, broken, good, 2)
    assert found.worse and found.alpha == ALPHA and found.losses > found.wins
    assert BATCH <= found.labels <= 2 * BATCH, "most of its answers are wrong: the first looks tell"
    assert found.former_right - found.right == found.losses - found.wins > found.labels / 4
    assert row.reason == found.reason and f"+{found.wins} −{found.losses} of {found.labels} labels" in row.reason
    eventually(lambda: unbroken(quick) == [], "the ledger and `models` differ")
    assert standing.held(rows(quick), quick.cooldown_s, now_ms()) is not None
    assert standing.spurned(rows(quick), broken) is not None


@EMBEDDED
def test_what_counts_is_a_held_out_text_drawn_at_random_whose_first_label_came_after(
    quick: Settings, engine: Engine
) -> None:
    keep_texts(quick)
    promote(quick, add_model(quick, engine))
    at = rows(quick)[-1].at
    names = [text_id for text_id, _, _ in KNOWN]
    label(
        quick,
        [
            example(names[0], "neutral", given=at + 1),
            example(names[1], "neutral", given=at + 1, sampled=False),
            example(names[2], "neutral", given=at + 1, holdout=False),
            example(names[3], "neutral", given=at),
            example(names[3], "neutral", given=at + 2),
            example("erased", "neutral", given=at + 1),
        ],
    )
    Rollout(quick).look()
    assert watched(quick).labels == 1


@EMBEDDED
def test_answers_are_kept_and_the_last_word_counts(quick: Settings, engine: Engine) -> None:
    keep_texts(quick)
    broken = broken_model(quick, engine)
    promote(quick, broken)
    (text_id, body, _), at = KNOWN[0], rows(quick)[-1].at
    (said,) = engine.score([body])
    assert not isinstance(said, Exception)
    right: Label = said.label
    wrong: Label = "negative" if right != "negative" else "positive"
    label(quick, [example(text_id, right, given=at + 1)])
    Rollout(quick).look()
    first = watched(quick)
    assert (first.labels, first.former_right, first.losses - first.wins) == (1, 1, int(right != "neutral"))
    label(quick, [example(text_id, wrong, given=at + 2)])
    with database(quick) as cursor:
        cursor.execute("UPDATE text SET body = 'another text'")
    Rollout(quick).look()
    assert (watched(quick).labels, watched(quick).former_right) == (1, 0)


@EMBEDDED
def test_a_pin_keeps_it_and_a_successor_of_a_killed_trainer_knows_what_was_seen(
    quick: Settings, engine: Engine
) -> None:
    keep_texts(quick)
    broken = broken_model(quick, engine)
    promote(quick, broken)
    at = rows(quick)[-1].at
    label(quick, [example(text_id, right, given=at + 1) for text_id, _, right in KNOWN[:BATCH]])
    with person(quick) as ana:
        ana.pin(actor="ana", reason="I want to see this")
        Rollout(quick).look()
        assert watched(quick).worse and told(quick)[-1][0] == "pin"
        ana.unpin(actor="ana", reason="seen")
    with database(quick) as cursor:
        cursor.execute("DELETE FROM text")
    Rollout(quick).look()
    assert told(quick)[-1] == ("rollback", engine.card.version)
    with database(quick) as cursor:
        assert standing.now(cursor, quick.cooldown_s).watched is None, "it would change places with the other"


@EMBEDDED
def test_a_good_champion_stays(quick: Settings, engine: Engine) -> None:
    keep_texts(quick)
    broken = broken_model(quick, engine)
    with person(quick) as ana:
        ana.promote(broken, actor="ana", reason="by mistake", evidence={})
        ana.promote(engine.card.version, actor="ana", reason="the better one", evidence={})
    at = rows(quick)[-1].at
    label(quick, [example(text_id, right, given=at + 1) for text_id, _, right in KNOWN[: 3 * BATCH]])
    look = Rollout(quick)
    for _ in range(4):
        look.look()
    found = watched(quick)
    assert found.labels == 3 * BATCH and found.wins > found.losses and not found.worse
    assert len(rows(quick)) == 3
