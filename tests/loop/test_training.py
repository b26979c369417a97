"""Training runs and kills: what a run left undone is done by its successor, and what it finished is done once."""

from __future__ import annotations

import json
import zlib
from typing import Any

import msgspec
import pytest
from loop.conftest import Bench
from loop.makers import clean_text, prediction, published

from services import store
from services.stream.errors import Misconfigured
from services.trainer import design, manifest, registry, run
from services.trainer.base import Base
from services.trainer.dataset import BaseFile, Labelled
from services.trainer.gate import Verdict
from services.trainer.promotion import Promoter
from services.trainer.service import under_way, waiting
from services.trainer.setup import register_bundled


class Killed(BaseException):
    """Stands for a kill -9: nothing after it happens."""


@pytest.fixture
def labelled(bench: Bench) -> Bench:
    """A promoted model and three corrections of one text each; what passes the gate is promoted at once."""
    bench.settings = msgspec.structs.replace(bench.settings, device="cpu", shadow_texts=0)
    register_bundled(bench.bus)
    names = ("b", "c", "e")  # not held out
    bench.bus.publish([event for name in names for event in (clean_text(name), published(prediction(name)))])
    bench.run(store.serve, lambda: bench.caught_up(store.GROUP, *store.TOPICS))
    for name in names:
        bench.rows(
            "INSERT INTO example (example_id, feedback_id, prediction_id, text_id, cluster, predicted, label, model,"
            " epoch, annotator, sampled, holdout, given)"
            " VALUES (%s, %s, %s, %s, %s, 'neutral', 'positive', 'm1', 1, 'ana', false, false, 1) RETURNING 1",
            *(name,) * 5,
        )
    return bench


def test_a_run_that_was_killed_leaves_its_examples_waiting(labelled: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise Killed

    context = labelled.context("trainer")
    assert waiting(context) == 3
    with monkeypatch.context() as patch:
        patch.setattr(run, "challenge", killed)
        patch.setattr(run, "_end", lambda *_: None)
        with pytest.raises(Killed):
            run.train_once(labelled.settings, "volume", lambda _: None)
    assert labelled.rows("SELECT state FROM training_run") == [("running",)]
    assert waiting(context) == 3
    outcome = run.train_once(labelled.settings, "volume", lambda _: None)
    assert labelled.rows("SELECT state FROM training_run ORDER BY run") == [("failed",), ("refused",)]
    assert not outcome.promoted and outcome.reason.startswith("not enough evidence")
    assert waiting(context) == 0
    ((card,),) = labelled.rows("SELECT card FROM model_version WHERE version = %s", outcome.version)
    (kept,) = labelled.rows("SELECT manifest FROM training_run WHERE state = 'refused'")
    assert kept == (card["dataset"],)
    found = card["calibration"]
    assert found["texts"] == found["answered"]["n"] + found["abstained"]["n"] > 400
    assert found["answered"]["accuracy"] > found["abstained"]["accuracy"]


def test_a_decision_and_the_end_of_its_run_are_one_effect(labelled: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(run, "_end", killed)
        with pytest.raises(Killed):
            run.train_once(labelled.settings, "volume", lambda _: None)
    assert labelled.rows("SELECT action FROM ledger") == [("promote",)]
    assert labelled.rows("SELECT count(*) FROM model_version") == [(1,)]
    assert waiting(labelled.context("trainer")) == 3


def test_each_look_at_the_holdout_is_counted_and_its_evidence_kept(labelled: Bench) -> None:
    labelled.rows(
        "INSERT INTO text (text_id, cluster, body, source, language, marks, event_time, received)"
        " SELECT 'h' || n, 'h' || n, 'Orders at Harlow rise after quarter ' || n, 'desk' || (n & 1), 'en', '{}', 1, 1"
        " FROM generate_series(1, 120) n RETURNING 1"
    )
    labelled.rows(
        "INSERT INTO example (example_id, feedback_id, prediction_id, text_id, cluster, predicted, label, model, epoch,"
        " annotator, sampled, holdout, given) SELECT text_id, text_id, 'p', text_id, cluster, 'neutral', 'positive',"
        " 'm1', 1, 'ana', true, true, 1 FROM text WHERE source LIKE 'desk_' RETURNING 1"
    )
    outcomes = [run.train_once(labelled.settings, "volume", lambda _: None) for _ in range(2)]
    assert [outcome.verdict.look for outcome in outcomes] == [1, 2]
    assert outcomes[1].verdict.alpha < outcomes[0].verdict.alpha
    rows = labelled.rows("SELECT evidence FROM ledger WHERE actor = 'trainer' ORDER BY epoch")
    assert [msgspec.convert(json.loads(row[0]), Verdict) for row in rows] == [o.verdict for o in outcomes]
    verdict = outcomes[0].verdict
    assert [part.name for part in verdict.slices] == ["anchor", "source desk0", "source desk1"]
    assert {edit.name for edit in verdict.edits} == {"case", "space", "typo"} and verdict.speed == 1.0
    assert verdict.calibration is not None and verdict.champion.n == 120 < verdict.needed


@pytest.fixture
def better(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate lets pass whatever comes."""
    challenge = run.challenge

    def judged(*arguments: Any) -> Any:
        model, verdict = challenge(*arguments)
        return model, msgspec.structs.replace(verdict, promote=True, reason="better", look=verdict.look or 1)

    monkeypatch.setattr(run, "challenge", judged)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"answer": "refused", "reason": "no room for it"}, "score 0 refuses it: no room for it"),
        ({"answer": "preparing"}, "score 0 did not answer within 1 s"),
    ],
)
@pytest.mark.usefixtures("better")
def test_what_a_scorer_cannot_serve_is_refused_on_record(labelled: Bench, answer: dict[str, str], says: str) -> None:
    labelled.rows(
        "INSERT INTO service (name, slot, pid, state, detail, started, beat)"
        " VALUES ('score', 0, 1, 'running', %s, 0, 9000000000000) RETURNING 1",
        json.dumps({"preparation": {"offset": 0, "model": "x", "reason": "", **answer}}),
    )
    settings = msgspec.structs.replace(labelled.settings, prepare_s=1)
    outcome = run.train_once(settings, "volume", lambda _: None)
    assert not outcome.promoted and outcome.reason.startswith("better, but ") and outcome.reason.endswith(says)
    assert labelled.rows("SELECT action, reason, version FROM ledger ORDER BY epoch DESC LIMIT 1") == [
        ("refuse", outcome.reason, outcome.version)
    ]
    assert labelled.rows("SELECT state FROM training_run") == [("refused",)]
    assert waiting(labelled.context("trainer")) == 0
    labelled.rows("UPDATE service SET detail = jsonb_set(detail, '{preparation,offset}', '1') RETURNING 1")
    labelled.rows("UPDATE service SET detail = jsonb_set(detail, '{preparation,answer}', '\"ready\"') RETURNING 1")
    outcome = run.train_once(settings, "volume", lambda _: None, seed=2)
    assert outcome.promoted and outcome.reason == "better"


def test_a_leak_refuses_the_run_on_record_and_nothing_is_learned(labelled: Bench) -> None:
    held_out = "a"
    labelled.bus.publish([clean_text(held_out, "Copper falls"), published(prediction(held_out))])
    labelled.run(store.serve, lambda: labelled.caught_up(store.GROUP, *store.TOPICS))
    labelled.rows(
        "INSERT INTO example (example_id, feedback_id, prediction_id, text_id, cluster, predicted, label, model, epoch,"
        " annotator, sampled, holdout, given)"
        " VALUES ('leak', 'w', 'p', %s, %s, 'neutral', 'positive', 'm1', 1, 'ana', false, false, 1) RETURNING 1",
        held_out, held_out,
    )  # fmt: skip
    with pytest.raises(Misconfigured, match=r"nothing is trained: held out, yet taught: leak$"):
        run.train_once(labelled.settings, "volume", lambda _: None)
    ((state, detail, kept),) = labelled.rows("SELECT state, detail, manifest FROM training_run")
    assert state == "failed" and "held out, yet taught: leak" in detail["error"] and kept is None
    assert labelled.rows("SELECT count(*) FROM learned_text") == [(0,)]
    assert labelled.rows("SELECT action FROM ledger") == [("promote",)]


def test_a_base_alone_can_be_learned_from_and_is_in_the_manifest(labelled: Bench) -> None:
    labelled.rows("DELETE FROM example RETURNING 1")
    own = Base((BaseFile("mine.csv", "ab"),), [Labelled("base-1", "Tolls on the canal were lifted", 2, sampled=False)])
    outcome = run.train_once(labelled.settings, "command", lambda _: None, base=own)
    ((card,),) = labelled.rows("SELECT card FROM model_version WHERE version = %s", outcome.version)
    ((content,),) = labelled.rows("SELECT content FROM manifest WHERE hash = %s", card["dataset"])
    found = msgspec.json.decode(zlib.decompress(content), type=manifest.Manifest)
    assert found.base == own.files and "base-1" in {e.id for e in found.entries if e.role == "replay"}


def test_two_runs_at_once_are_refused(labelled: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = []

    def challenge(*_: Any) -> None:
        with pytest.raises(Misconfigured, match="another training run") as caught:
            run.train_once(labelled.settings, "command", lambda _: None)
        errors.append(caught.value)
        raise Killed

    monkeypatch.setattr(run, "challenge", challenge)
    with pytest.raises(Killed):
        run.train_once(labelled.settings, "volume", lambda _: None)
    assert len(errors) == 1


@pytest.mark.usefixtures("better")
@pytest.mark.parametrize(
    ("between", "pin"), [({"shadow_texts": 20}, False), ({"approve": True}, False), ({}, True)], ids=str
)
def test_where_something_comes_between_a_pass_is_no_promotion(
    labelled: Bench, between: dict[str, Any], pin: bool
) -> None:
    if pin:
        Promoter(labelled.bus, labelled.settings.connector("test"), 0).pin(actor="ana", reason="stay")
    settings = msgspec.structs.replace(labelled.settings, **between)
    outcome = run.train_once(settings, "volume", lambda _: None)
    assert (outcome.action, outcome.promoted) == ("pass", False)
    assert labelled.rows("SELECT action, version, actor FROM ledger ORDER BY epoch DESC LIMIT 1") == [
        ("pass", outcome.version, "trainer")
    ]
    assert labelled.rows("SELECT state FROM training_run") == [("passed",)]
    context = labelled.context("trainer")
    assert waiting(context) == 0 and under_way(context)
    with pytest.raises(Misconfigured, match=f"{outcome.version} passed the gate and is passed"):
        run.train_once(settings, "command", lambda _: None)
    assert labelled.rows("SELECT count(*) FROM training_run") == [(1,)]


@pytest.mark.usefixtures("better")
def test_a_pin_that_comes_while_the_scorers_prepare_holds(labelled: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def pinned(*_: Any) -> None:
        Promoter(labelled.bus, labelled.settings.connector("test"), 0).pin(actor="ana", reason="stay")

    monkeypatch.setattr(run.Promoter, "prepare", pinned)
    assert run.train_once(labelled.settings, "volume", lambda _: None).action == "pass"


@pytest.mark.usefixtures("better")
def test_a_dry_run_is_a_look_on_record_and_nothing_comes_of_it(labelled: Bench) -> None:
    outcome = run.train_once(labelled.settings, "command", lambda _: None, dry_run=True)
    assert (outcome.action, outcome.promoted, outcome.verdict.promote) == ("dry-run", False, True)
    assert labelled.rows("SELECT action, version FROM ledger ORDER BY epoch DESC LIMIT 1") == [
        ("dry-run", outcome.version)
    ]
    assert labelled.rows("SELECT state FROM training_run") == [("dry run",)]
    context = labelled.context("trainer")
    assert waiting(context) == 3 and not under_way(context)
    seen: list[int] = []
    labelled.bus.write(lambda cursor: seen.append(design.looks(registry.ledger(cursor))) or [])
    assert seen == [1]
    again = run.train_once(labelled.settings, "volume", lambda _: None)
    assert (again.action, again.version) == ("promote", outcome.version)


@pytest.mark.usefixtures("better")
def test_what_the_watch_rolled_back_is_not_promoted_again(labelled: Bench) -> None:
    outcome = run.train_once(labelled.settings, "volume", lambda _: None)
    promoter = Promoter(labelled.bus, labelled.settings.connector("test"), 0)
    promoter.rollback(actor="watch", reason="worse than before")
    again = run.train_once(labelled.settings, "command", lambda _: None)
    assert (again.version, again.action) == (outcome.version, "refuse")
    assert again.reason == "better, but it was rolled back at epoch 3: worse than before"
