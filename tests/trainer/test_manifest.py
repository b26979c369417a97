"""The manifest: ids only, equal for equal content, found by run or hash, refused when altered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing

import msgspec
import psycopg2
import pytest
from click.testing import CliRunner
from psycopg2.extensions import cursor as Cursor
from trainer.dataset_kit import FREE, HELD, dataset, labelled, said, text, unlabelled, words

from services.cli import main
from services.stream.errors import Misconfigured, Rejected
from services.trainer import leaks, manifest
from services.trainer.assembly import assemble
from services.trainer.base import Base
from services.trainer.dataset import BaseFile


@pytest.fixture
def cursor(database: str) -> Iterator[Cursor]:
    with closing(psycopg2.connect(database)) as connection, connection.cursor() as found:
        yield found


def begun(cursor: Cursor) -> int:
    cursor.execute(
        "INSERT INTO training_run (trigger, state, upto, detail, started) VALUES ('volume', 'refused', 0, '{}', 0)"
        " RETURNING run"
    )
    (run,) = cursor.fetchone() or (0,)
    return int(run)


def desk(cursor: Cursor) -> None:
    """Texts on both sides: some labelled, some not."""
    for number, name in enumerate([*HELD[:6], *FREE[:12]]):
        text(cursor, name, words(number))
    for name in (*HELD[:3], *FREE[:6]):
        said(cursor, name)


def test_it_lists_every_text_by_role_with_its_lineage_and_without_its_words(cursor: Cursor) -> None:
    desk(cursor)
    found = manifest.of(assemble(cursor))
    roles = {role: {e.text_id for e in found.entries if e.role == role} for role in manifest.ROLES}
    assert roles["learn"] == set(FREE[:6]) and roles["measure"] == set(HELD[:3]) and roles["live"] == set(FREE[6:12])
    assert roles["replay"] == roles["anchor"] == {""}
    taught = [e for e in found.entries if e.role == "learn"]
    assert all(e.feedback == (f"w-{e.id}",) and e.label == "positive" and e.weight > 0 for e in taught)
    assert all(e.label is None and e.weight > 0 for e in found.entries if e.role == "live")
    assert all(e.weight == 0 for e in found.entries if e.role in ("measure", "anchor"))
    content = msgspec.json.encode(found).decode()
    assert not any(word in content for number in range(18) for word in words(number).split())


def test_the_hash_covers_ids_roles_labels_weights_lineage_and_base_and_no_order() -> None:
    first, second = labelled(FREE[0]), labelled(FREE[1])
    data = dataset(learn=[first, second], measure=[labelled(HELD[0])], live=[unlabelled(FREE[2])])
    same = data._replace(learn=[second, first], upto=9, left_out={"copies": 2})
    assert manifest.of(same).hash == manifest.of(data).hash
    others = [
        data._replace(learn=[first]),
        data._replace(learn=[first], replay=[second]),
        data._replace(learn=[first, second._replace(label=2)]),
        data._replace(learn=[first, second._replace(weight=0.5)]),
        data._replace(learn=[first, second._replace(feedback=("w",))]),
        data._replace(live=[]),
        data._replace(base=(BaseFile("mine.csv", "00"),)),
    ]
    assert len({manifest.of(other).hash for other in [data, *others]}) == len(others) + 1


def test_it_is_found_by_run_and_by_the_beginning_of_its_hash(cursor: Cursor) -> None:
    desk(cursor)
    made = manifest.of(assemble(cursor))
    runs = [begun(cursor), begun(cursor)]
    for run in runs:
        manifest.keep(cursor, run, made)
    shown = manifest.load(cursor, str(runs[0]))
    assert (shown.manifest, shown.runs, shown.models) == (made, runs, [])
    assert manifest.load(cursor, made.hash) == manifest.load(cursor, made.hash[:8].upper()) == shown
    for unknown in ("999", "ffff0000", "", str(begun(cursor)), "%"):
        with pytest.raises(Rejected, match="names no run with a manifest"):
            manifest.load(cursor, unknown)


def test_one_that_was_altered_is_refused(cursor: Cursor) -> None:
    desk(cursor)
    one, other = manifest.of(assemble(cursor)), manifest.of(dataset(learn=[labelled(FREE[0])]))
    manifest.keep(cursor, begun(cursor), one)
    manifest.keep(cursor, begun(cursor), other)
    cursor.execute(
        "UPDATE manifest SET content = (SELECT content FROM manifest WHERE hash = %s) WHERE hash = %s",
        (other.hash, one.hash),
    )
    with pytest.raises(Rejected, match="does not have its recorded hash"):
        manifest.load(cursor, one.hash)


def test_a_measured_text_that_an_earlier_run_learned_refuses_the_next(cursor: Cursor) -> None:
    desk(cursor)
    first = assemble(cursor)
    leaks.refuse(cursor, first)
    manifest.keep(cursor, begun(cursor), manifest.of(first))
    leaks.refuse(cursor, assemble(cursor))
    cursor.execute(
        "UPDATE example SET holdout = true, sampled = true WHERE text_id = %s RETURNING example_id", (FREE[0],)
    )
    (example,) = cursor.fetchone() or ("",)
    turned = assemble(cursor)
    with pytest.raises(Misconfigured) as refused:
        leaks.refuse(cursor, turned._replace(measure=[e._replace(text_id=FREE[0]) for e in turned.measure[:1]]))
    assert "measures, yet an earlier run has learned it: " in str(refused.value)
    assert example not in {e.example_id for e in turned.measure}, "its own text was learned before"
    assert turned.left_out == {"measuring text whose story an earlier run has learned": 1}


def test_a_held_out_text_that_is_to_teach_refuses(cursor: Cursor) -> None:
    desk(cursor)
    cursor.execute("UPDATE example SET holdout = false WHERE text_id = %s RETURNING example_id", (HELD[0],))
    (example,) = cursor.fetchone() or ("",)
    with pytest.raises(Misconfigured, match="nothing is trained: held out, yet taught: ") as refused:
        leaks.refuse(cursor, assemble(cursor))
    assert str(refused.value).endswith(example)


def test_a_base_is_replayed_and_kept_apart_from_what_measures(cursor: Cursor) -> None:
    desk(cursor)
    own = [labelled("", example_id="base-1"), labelled("", example_id="base-2", text=words(0))]
    found = assemble(cursor, Base((BaseFile("mine.csv", "ab" * 32),), own))
    assert "base-1" in {e.example_id for e in found.replay}
    assert "base-2" not in {e.example_id for e in found.replay}, "it is the first held-out text"
    assert found.left_out == {"copy of a measuring text": 1} and found.base[0].name == "mine.csv"


def test_the_command_shows_it_to_people_and_to_scripts(database: str) -> None:
    with closing(psycopg2.connect(database)) as connection, connection, connection.cursor() as cursor:
        desk(cursor)
        made = manifest.of(assemble(cursor))
        run = begun(cursor)
        manifest.keep(cursor, run, made)

    def call(*arguments: str) -> str:
        answer = CliRunner().invoke(main, ["train", "manifest", *arguments], env={"TICKERLOOP_DATABASE": database})
        assert answer.exit_code == 0, answer.output
        return answer.output

    said = call(str(run))
    assert made.hash in said and f"runs {run}; models none" in said
    rows = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line.split()[0] in manifest.ROLES}
    assert rows["learn"][0] == "6" and rows["learn"][2:] == ["0", "0", "6"] and rows["measure"][0] == "3"
    assert rows["live"][0] == "6" and rows["live"][2:] == ["0", "0", "0"]
    shown = json.loads(call(made.hash[:10], "--json"))
    assert shown["hash"] == made.hash and len(shown["manifest"]["entries"]) == len(made.entries)
    answer = CliRunner().invoke(main, ["train", "manifest", "777"], env={"TICKERLOOP_DATABASE": database})
    assert answer.exit_code == 3 and "names no run with a manifest" in " ".join(answer.output.split())
