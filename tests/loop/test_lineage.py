"""Which feedback changed this prediction: what is stored, what is computed, and what can't be told."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from loop.conftest import Bench
from loop.makers import clean_text, prediction, published
from loop.scoring import add_model, database
from manifests import taught

from services import store
from services.cli import main
from services.erasure.request import Request
from services.erasure.texts import erase_text
from services.lineage import trace
from services.lineage.trace import Asked, Lineage, Seen
from services.score.engine import Engine
from services.stream.bus import Outgoing
from services.stream.errors import Rejected
from services.stream.events import prediction_id
from services.trainer.setup import register_bundled

TEXTS = {
    "asked": "Copper rallies as a strike at the mine drags on",
    "near": "Zinc gains as a strike shuts another mine",
    "far": "The annual general meeting will be held in Budapest",
    "confirmed": "Copper rallies as a strike at the mine goes on",
    "own": "Copper rallies as a strike at the mine drags on",
}


@pytest.fixture
def learned(bench: Bench, engine: Engine) -> tuple[Bench, str, str]:
    """A deployment, a version that learned from four examples, and its prediction of `asked`."""
    register_bundled(bench.bus)
    version = add_model(bench.settings, engine)
    asked = msgspec.structs.replace(
        prediction("asked"), prediction_id=prediction_id("asked", version), model=version, probabilities=(0.1, 0.2, 0.7)
    )
    texts: list[Outgoing] = [clean_text(name, text) for name, text in TEXTS.items()]
    bench.bus.publish([*texts, published(asked)])
    bench.run(store.serve, lambda: bench.caught_up(store.GROUP, *store.TOPICS))
    for number, name in enumerate(("near", "far", "confirmed", "own")):
        label = "neutral" if name == "confirmed" else "positive"
        cluster = "asked" if name == "own" else name
        bench.rows(
            "INSERT INTO example (example_id, feedback_id, prediction_id, text_id, cluster, predicted, label, model,"
            " epoch, annotator, sampled, holdout, given) VALUES (%s, %s, 'p', %s, %s, 'neutral', %s, 'm', 1, 'p1',"
            " false, false, %s) RETURNING 1",
            name, name, name, cluster, label, number,
        )  # fmt: skip
    bench.rows("INSERT INTO annotator VALUES ('p1', 'ana', 1) RETURNING 1")
    found, content = taught([(name, name) for name in ("near", "far", "confirmed", "own")])
    bench.rows("INSERT INTO manifest VALUES (%s, %s, 1) RETURNING 1", found, content)
    bench.rows(
        "UPDATE model_version SET card = card || %s WHERE version = %s RETURNING 1",
        json.dumps({"dataset": found}),
        version,
    )
    return bench, version, asked.prediction_id


def asked_of(bench: Bench, identity: str) -> Asked:
    with database(bench.settings) as cursor:
        return trace.ask(cursor, identity)


def told(bench: Bench, identity: str, seen: Seen | str, cache: Path) -> Lineage:
    asked = asked_of(bench, identity)
    with database(bench.settings) as cursor:
        return trace.told(asked, seen, trace.parents_answer(cursor, asked, seen, cache))


def seen_by(engine: Engine, bench: Bench, identity: str) -> Seen:
    return Seen(engine.runtime.key, engine.embed(asked_of(bench, identity).texts))


def test_the_nearest_corrections_come_first(learned: tuple[Bench, str, str], engine: Engine, tmp_path: Path) -> None:
    bench, _, identity = learned
    found = told(bench, identity, seen_by(engine, bench, identity), tmp_path)
    assert (found.text, found.learned, found.corrections, found.notes) == (TEXTS["asked"], 4, 3, [])
    assert [(one.example_id, one.own) for one in found.nearest] == [("own", True), ("near", False), ("far", False)]
    own, near, far = (one.similarity or 0 for one in found.nearest)
    assert own == pytest.approx(1, abs=1e-3) and own > near > far
    assert {(one.name, one.annotator, one.predicted, one.label) for one in found.nearest} == {
        ("ana", "p1", "neutral", "positive")
    }
    assert [one.given for one in found.nearest] == [3, 0, 1]


def test_the_parents_answer_is_computed_where_none_is_stored(
    learned: tuple[Bench, str, str], engine: Engine, tmp_path: Path
) -> None:
    bench, version, identity = learned
    found = told(bench, identity, seen_by(engine, bench, identity), tmp_path)
    (scored,) = engine.score([TEXTS["asked"]])
    assert not isinstance(scored, Rejected) and found.before is not None
    assert (found.before.model, found.before.source, found.before.label) == (
        engine.card.version, "computed", scored.label,
    )  # fmt: skip
    assert found.before.probabilities == pytest.approx(scored.probabilities, abs=1e-4)
    assert found.after.probabilities == (0.1, 0.2, 0.7) and found.after.model == version
    assert found.change == pytest.approx(np.subtract((0.1, 0.2, 0.7), found.before.probabilities), abs=1e-5)

    bench.rows(
        "INSERT INTO shadow_prediction (prediction_id, text_id, label, negative, neutral, positive, model, epoch,"
        " scored) VALUES (%s, 'asked', 'neutral', 0.25, 0.5, 0.25, 'm', 1, 1) RETURNING 1",
        prediction_id("asked", engine.card.version),
    )
    found = told(bench, identity, "no worker", tmp_path)
    assert found.before is not None and found.before.source == "shadow" and found.notes == ["no worker"]
    assert found.change == pytest.approx((-0.15, -0.3, 0.45)) and found.nearest == []


def test_what_can_not_be_told_is_said(learned: tuple[Bench, str, str], engine: Engine, tmp_path: Path) -> None:
    bench, _, identity = learned
    other = Seen("other", seen_by(engine, bench, identity).rows)
    assert told(bench, identity, other, tmp_path).notes == [
        f"what {engine.card.version} says of the text is not stored, and its encoder isn't the one in use"
    ]
    erase_text(bench.settings, "near", Request("oda"))
    bench.rows("DELETE FROM annotator RETURNING 1")
    found = told(bench, identity, seen_by(engine, bench, identity), tmp_path)
    assert [(one.example_id, one.name) for one in found.nearest] == [("own", None), ("far", None)]
    assert found.notes == ["1 corrections are of texts that were erased since"] and found.corrections == 3
    erase_text(bench.settings, "asked", Request("oda"))
    asked = asked_of(bench, identity)
    assert asked.texts == [] and asked.lineage.text is None
    found = told(bench, identity, trace.ERASED, tmp_path)
    assert trace.ERASED in found.notes and (found.before, found.change, found.nearest) == (None, None, [])
    with pytest.raises(Rejected, match="no prediction nothing"):
        asked_of(bench, "nothing")


def test_only_so_many_are_compared(learned: tuple[Bench, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    bench, _, identity = learned
    monkeypatch.setattr(trace, "LOOKED", 2)
    asked = asked_of(bench, identity)
    assert [one.example_id for one in asked.lineage.nearest] == ["own", "far"], "the newest"
    assert asked.lineage.notes == ["the newest 2 of 3 corrections were compared"]


def test_the_command_opens_the_model_itself(learned: tuple[Bench, str, str], tmp_path: Path) -> None:
    bench, version, identity = learned
    environment = bench.settings.environment() | {"TICKERLOOP_DEVICE": "cpu", "TICKERLOOP_MODELS": ""}
    answer = CliRunner().invoke(main, ["lineage", identity, "--json"], env=environment)
    assert answer.exit_code == 0, answer.output
    found = msgspec.json.decode(answer.stdout, type=Lineage)
    assert [one.example_id for one in found.nearest] == ["own", "near", "far"]
    assert found.before is not None and found.before.source == "computed"
    shown = CliRunner().invoke(main, ["lineage", identity], env=environment | {"COLUMNS": "200"}).output
    assert "ana" in shown and TEXTS["near"] in shown and f"{version} learned from 4 examples, 3 of them" in shown
    bench.rows("UPDATE model_blob SET bytes = 'x' RETURNING 1")
    broken = CliRunner().invoke(
        main, ["lineage", identity, "--json"], env=environment | {"TICKERLOOP_MODELS": str(tmp_path / "none")}
    )
    assert broken.exit_code == 0 and f"its model {version} can't be opened here" in broken.stdout
    assert CliRunner().invoke(main, ["lineage", "nothing"], env=environment).exit_code == 3
