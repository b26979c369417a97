"""From the gate's pass into service: each state, each way out of it, on the real log with a real scorer."""

from __future__ import annotations

import json
from contextlib import closing

import msgspec
import pytest
from click.testing import CliRunner, Result
from loop.rollouts import WANTED, passes, person, rows, scored, state, told, unbroken
from loop.scoring import Predictions, Scorer, Stream, add_model, database, eventually, promote, tampered
from loop.test_shadow import says, storing

from services.cli import main
from services.score.engine import Engine
from services.settings import Settings
from services.stream.database import transaction
from services.stream.membership import lock_key
from services.trainer import registry, rollout, trial
from services.trainer.registry import WATCH, Conflict
from services.trainer.rollout import Rollout

EMBEDDED = pytest.mark.parametrize("settings", ["embedded"], indirect=True)


def served(settings: Settings) -> str:
    with database(settings) as cursor:
        champion = registry.champion(cursor)
    assert champion is not None
    return champion.version


@pytest.mark.usefixtures("opened")
def test_it_shadows_and_is_promoted_each_in_one_row_and_one_record(quick: Settings, engine: Engine) -> None:
    version, first = add_model(quick, engine), engine.card.version
    scored(quick, first, WANTED + 5)
    with Scorer(quick) as scorer:
        passed = passes(quick, version)
        Rollout(quick).look()
        assert told(quick) == [("pass", version), ("shadow", version)] and state(quick) == "shadowing"
        eventually(lambda: says(scorer) == "scoring", "the scorer did not take it up")
        Rollout(quick).look()
        assert told(quick)[2:] == [("promote", version)] and state(quick) is None and served(quick) == version
        eventually(lambda: scorer.epoch == 4 and says(scorer) == "", "the scorer did not swap")
        Rollout(quick).look()
        assert len(rows(quick)) == 4
    eventually(lambda: unbroken(quick) == [], "the ledger and `models` differ")
    row = rows(quick)[-1]
    assert (row.actor, row.champion, row.reason) == ("trainer", first, "better: +9 −1")
    assert row.evidence["passed"] == passed
    found = msgspec.convert(row.evidence["shadow"], trial.Trial)
    assert (found.wanted, found.live, found.problems) == (WANTED, 0, ())
    assert found.texts == found.replayed == WANTED + 5 and found.agreement.rate > 0.9


@EMBEDDED
@pytest.mark.usefixtures("opened")
def test_live_texts_are_waited_for_and_count(quick: Settings, engine: Engine) -> None:
    patient = msgspec.structs.replace(quick, shadow_s=600)
    version, look = add_model(quick, engine), Rollout(patient)
    with storing(quick), Scorer(quick) as scorer, Stream(quick), Predictions(quick) as predictions:
        predictions.wait_for(WANTED)
        passes(quick, version)
        look.look()
        look.look()
        assert state(quick) == "shadowing", "stored texts would do, but there may be live ones yet"

        def promoted() -> bool:
            look.look()
            return served(quick) == version

        eventually(promoted, "it is not promoted")
        eventually(lambda: scorer.epoch == 4, "the scorer did not swap")
    shadow = rows(quick)[-1].evidence["shadow"]
    assert shadow["live"] == WANTED and shadow["errors"] == []


@EMBEDDED
def test_too_few_texts_are_waited_for_however_long(quick: Settings, engine: Engine) -> None:
    scored(quick, engine.card.version, WANTED - 1)
    passes(quick, add_model(quick, engine))
    look = Rollout(quick)
    for _ in range(3):
        look.look()
    assert state(quick) == "shadowing"
    scored(quick, engine.card.version, 1, "more")
    look.look()
    assert state(quick) is None and len(rows(quick)) == 4


@EMBEDDED
def test_without_a_shadow_it_is_promoted_at_once(quick: Settings, engine: Engine) -> None:
    version = add_model(quick, engine)
    passes(quick, version)
    Rollout(msgspec.structs.replace(quick, shadow_texts=0)).look()
    assert told(quick) == [("pass", version), ("promote", version)]
    assert rows(quick)[-1].evidence == {"passed": 2}


@EMBEDDED
@pytest.mark.usefixtures("opened")
def test_one_that_says_absurd_things_is_withdrawn_with_its_numbers(quick: Settings, engine: Engine) -> None:
    version = add_model(quick, engine, 9.0)
    scored(quick, engine.card.version, 90)
    with Scorer(quick) as scorer:
        passes(quick, version)
        look = Rollout(quick)
        look.look()
        eventually(lambda: says(scorer) == "scoring", "it does not begin")
        look.look()
        assert told(quick)[2:] == [("withdraw", version)] and served(quick) == engine.card.version
        eventually(lambda: says(scorer) == "", "its shadow does not end")
    row = rows(quick)[-1]
    assert "of the labels" in row.reason and row.evidence["shadow"]["shadow_labels"]["positive"] == 1.0
    assert unbroken(quick) == []


@EMBEDDED
@pytest.mark.usefixtures("opened")
def test_one_that_a_scorer_can_not_load_is_withdrawn_at_once(quick: Settings, engine: Engine) -> None:
    look = Rollout(msgspec.structs.replace(quick, shadow_s=600))
    with Scorer(quick) as scorer:
        version = tampered(quick, engine)
        passes(quick, version)
        look.look()
        eventually(lambda: says(scorer) == "refused", "it is not told")

        def withdrawn() -> bool:
            look.look()
            return told(quick)[2:] == [("withdraw", version)]

        eventually(withdrawn, "it goes on", 10)
    assert "score 0 can't load it" in rows(quick)[-1].reason


@EMBEDDED
def test_one_that_the_trainer_can_not_load_is_withdrawn(quick: Settings, engine: Engine) -> None:
    version = tampered(quick, engine)
    scored(quick, engine.card.version, WANTED)
    passes(quick, version)
    for _ in range(2):
        Rollout(quick).look()
    assert told(quick)[2:] == [("withdraw", version)] and "recorded hash" in rows(quick)[-1].reason


@EMBEDDED
def test_one_that_is_not_prepared_is_withdrawn_with_the_scorer_s_reason(quick: Settings, engine: Engine) -> None:
    version = add_model(quick, engine)
    with database(quick) as cursor:
        cursor.execute(
            "INSERT INTO service (name, slot, pid, state, detail, started, beat)"
            " VALUES ('score', 0, 1, 'running', %s, 0, 9000000000000)",
            ('{"preparation": {"offset": 0, "model": "x", "answer": "refused", "reason": "no room for it"}}',),
        )
    passes(quick, version)
    Rollout(msgspec.structs.replace(quick, shadow_texts=0)).look()
    assert told(quick)[1:] == [("withdraw", version)]
    assert rows(quick)[-1].reason.endswith("score 0 refuses it: no room for it")


@EMBEDDED
def test_any_change_of_the_champion_ends_a_candidacy(quick: Settings, engine: Engine) -> None:
    version, other = add_model(quick, engine), add_model(quick, engine, 0.02)
    scored(quick, engine.card.version, WANTED)
    passes(quick, version)
    look = Rollout(quick)
    look.look()
    promote(quick, other)
    look.look()
    assert told(quick)[2:] == [("promote", other)] and state(quick) is None


@EMBEDDED
def test_what_was_decided_meanwhile_stands(quick: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody rejects it while the scorers prepare it."""
    version = add_model(quick, engine)
    passes(quick, version)
    prepare = rollout.Promoter.prepare

    def rejected(self: rollout.Promoter, asked: str) -> None:
        prepare(self, asked)
        with person(quick) as ana:
            ana.reject(version, actor="ana", reason="I know better")

    monkeypatch.setattr(rollout.Promoter, "prepare", rejected)
    Rollout(msgspec.structs.replace(quick, shadow_texts=0)).look()
    assert told(quick) == [("pass", version), ("withdraw", version)] and served(quick) == engine.card.version


@EMBEDDED
def test_of_two_trainers_one_steps(quick: Settings, engine: Engine) -> None:
    passes(quick, add_model(quick, engine))
    with closing(quick.connector("other")()) as connection:
        with transaction(connection), connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", (lock_key("rollout"),))
        Rollout(quick).look()
        assert state(quick) == "passed"
    eventually(lambda: Rollout(quick).look() is None and state(quick) == "shadowing", "its successor does nothing", 10)


# ── pins, cool-downs, approval ───────────────────────────────────────────────────────────────────────────────────────


@EMBEDDED
def test_a_pin_holds_the_machine_up_and_no_person(quick: Settings, engine: Engine) -> None:
    version, other = add_model(quick, engine), add_model(quick, engine, 0.02)
    at_once = Rollout(msgspec.structs.replace(quick, shadow_texts=0))
    with person(quick) as ana:
        assert ana.pin(actor="ana", reason="month's end", expected_epoch=1).version == engine.card.version
        with pytest.raises(Conflict, match="pinned by ana: month's end"):
            ana.pin(actor="bo", reason="again")
        passes(quick, version)
        at_once.look()
        assert state(quick) == "passed"
        ana.unpin(actor="ana", reason="over", expected_epoch=1)
        with pytest.raises(Conflict, match="not pinned"):
            ana.unpin(actor="ana", reason="again")
        at_once.look()
        assert served(quick) == version
        ana.pin(actor="ana", reason="stays")
        assert promote(quick, other) == 7
        assert [row.action for row in rows(quick)] == ["promote", "pin", "pass", "unpin", "promote", "pin", "promote"]
    assert unbroken(quick) == []


@EMBEDDED
def test_a_pin_that_comes_while_the_scorers_prepare_holds(
    quick: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = add_model(quick, engine)
    passes(quick, version)
    prepare = rollout.Promoter.prepare

    def pinned(self: rollout.Promoter, asked: str) -> None:
        prepare(self, asked)
        with person(quick) as ana:
            ana.pin(actor="ana", reason="wait")

    monkeypatch.setattr(rollout.Promoter, "prepare", pinned)
    Rollout(msgspec.structs.replace(quick, shadow_texts=0)).look()
    assert told(quick)[1][0] == "pin" and state(quick) == "passed" and served(quick) == engine.card.version


@EMBEDDED
def test_after_a_rollback_by_the_watch_a_challenger_waits_for_the_cool_down(quick: Settings, engine: Engine) -> None:
    worse, better = add_model(quick, engine), add_model(quick, engine, 0.02)
    promote(quick, worse)
    with person(quick) as watch:
        watch.rollback(actor=WATCH, reason="worse")
    passes(quick, better)
    hot = msgspec.structs.replace(quick, shadow_texts=0)
    Rollout(hot).look()
    assert state(quick) == "passed"
    Rollout(msgspec.structs.replace(hot, cooldown_s=0)).look()
    assert served(quick) == better


def call(settings: Settings, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["models", *arguments], env=settings.environment())


def words(result: Result) -> str:
    return " ".join(result.output.split())


@EMBEDDED
def test_a_person_approves_or_rejects_by_command(quick: Settings, engine: Engine) -> None:
    asking = msgspec.structs.replace(quick, approve=True)
    version, other = add_model(quick, engine), add_model(quick, engine, 0.02)
    scored(quick, engine.card.version, WANTED)
    passes(quick, version)
    early = call(quick, "approve", version, "--reason", "x")
    assert early.exit_code == 3 and "not awaiting approval, it is passed" in words(early)
    look = Rollout(asking)
    for _ in range(3):
        look.look()
    assert told(quick)[2:] == [("propose", version)] and served(quick) == engine.card.version
    shown = json.loads(call(quick, "standing").stdout)
    assert (shown["candidate"]["state"], shown["candidate"]["version"]) == ("awaiting approval", version)
    assert shown["candidate"]["proposed"]["evidence"]["shadow"]["texts"] == WANTED and shown["pinned"] is None
    moved = call(quick, "approve", version, "--reason", "x", "--expected-epoch", "9")
    assert moved.exit_code == 3 and "epoch is 1, not 9" in words(moved)
    machine = call(quick, "approve", version, "--reason", "x", "--actor", "trainer")
    assert machine.exit_code == 3 and "name of a machine" in words(machine)
    done = call(quick, "approve", version, "--reason", "looks good", "--actor", "ana", "--expected-epoch", "1")
    assert done.output == f"epoch 5: {version} (was {engine.card.version})\n"
    row = rows(quick)[-1]
    assert (row.action, row.actor, row.evidence["passed"]) == ("promote", "ana", 2) and row.evidence["shadow"]["texts"]
    passes(quick, other)
    look.look()
    assert state(quick) == "shadowing"
    done = call(quick, "reject", other, "--reason", "not now", "--actor", "ana", "--expected-epoch", "5")
    assert done.output == f"epoch 8: {other} is withdrawn; {version} stays\n" and state(quick) is None
    again = call(quick, "reject", other, "--reason", "not now")
    assert again.exit_code == 3 and f"{other} is no challenger under way" in words(again)
    assert call(quick, "pin", "--reason", "x", "--actor", "ana").output == f"epoch 9: {version} is pinned\n"
    assert json.loads(call(quick, "standing").stdout)["pinned"]["epoch"] == 9
    said = call(quick, "unpin", "--reason", "x", "--actor", "ana", "--expected-epoch", "5").output
    assert said == f"epoch 10: {version} is no longer pinned\n"
    assert unbroken(quick) == []
