"""The ledger: append-only, chained, and any change of any row is found; promotions need the expected champion."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import msgspec
import psycopg2
import pytest
from click.testing import CliRunner, Result
from loop.conftest import Bench

from services.cli import main
from services.stream import topics
from services.stream.bus import Outgoing
from services.stream.errors import Rejected
from services.stream.events import ModelAction, ModelChange
from services.trainer import registry
from services.trainer.promotion import Promoter


@pytest.fixture
def registered(bench: Bench) -> Bench:
    files = {"head.safetensors": b"h" * 3_000_000, "model.json": b'{"metrics": {}}'}

    def write(cursor: registry.Cursor) -> list[Outgoing]:
        for version in ("a", "b", "c"):
            registry.register(cursor, version, None, files)
        return []

    bench.bus.write(write)
    return bench


def _promote(bench: Bench, version: str, expected: int | None = None) -> ModelChange:
    return promoter(bench).promote(version, actor="ana", reason="better", evidence={"p": 0.01}, expected_epoch=expected)


def promoter(bench: Bench) -> Promoter:
    return Promoter(bench.bus, bench.settings.connector("test"), patience_s=0)


def _ledger(bench: Bench) -> list[registry.LedgerRow]:
    found: list[registry.LedgerRow] = []
    bench.bus.write(lambda cursor: found.extend(registry.ledger(cursor)) or [])
    return found


def test_each_change_is_a_row_and_a_record(registered: Bench) -> None:
    assert [_promote(registered, v).epoch for v in ("a", "b")] == [1, 2]
    back = promoter(registered).rollback(actor="bo", reason="worse", expected_epoch=2)
    assert (back.epoch, back.version, back.previous) == (3, "a", "b")
    records = [msgspec.json.decode(r.value, type=ModelChange) for r in registered.bus.reader([topics.MODELS]).poll(0.5)]
    assert [(r.epoch, r.version, r.action) for r in records] == [
        (1, "a", "promote"), (2, "b", "promote"), (3, "a", "rollback"),
    ]  # fmt: skip
    assert registry.verify(_ledger(registered)) == []


def test_a_moved_champion_is_a_conflict_and_changes_nothing(registered: Bench) -> None:
    _promote(registered, "a", expected=0)
    with pytest.raises(registry.Conflict):
        _promote(registered, "b", expected=0)
    with pytest.raises(Rejected, match="no model zzz"):
        _promote(registered, "zzz")
    with pytest.raises(registry.Conflict, match="no earlier"):
        promoter(registered).rollback(actor="ana", reason="x")
    assert len(_ledger(registered)) == 1
    assert sum(registered.bus.ends(topics.MODELS).values()) == 1


def test_the_database_refuses_changes_and_verify_finds_them(registered: Bench) -> None:
    for version in ("a", "b", "c"):
        _promote(registered, version)
    for statement in ("UPDATE ledger SET reason = 'x'", "DELETE FROM ledger", "TRUNCATE ledger"):
        with pytest.raises(psycopg2.Error, match="append-only"):
            registered.bus.write(lambda cursor, s=statement: cursor.execute(s) or [])  # type: ignore[misc]
    rows = _ledger(registered)
    changed = [rows[0], msgspec.structs.replace(rows[1], reason="another"), rows[2]]
    assert registry.verify(changed) == ["row 2: its content was changed after it was written"]
    rehashed = msgspec.structs.replace(changed[1], hash=registry.row_hash(changed[1]))
    assert registry.verify([rows[0], rehashed, rows[2]]) == ["row 3: it does not follow the row before it"]
    assert "row 2: its epoch is 3" in registry.verify([rows[0], rows[2]])[0]


def test_the_champion_cannot_be_promoted_again_and_rollback_finds_the_one_before(registered: Bench) -> None:
    for version in ("a", "b"):
        _promote(registered, version)
    with pytest.raises(registry.Conflict, match="already"):
        _promote(registered, "b")
    assert promoter(registered).rollback(actor="ana", reason="worse").version == "a"
    assert _promote(registered, "b").previous == "a"


def _shadow(bench: Bench, version: str, expected: int | None = None) -> ModelChange:
    return promoter(bench).shadow(version, actor="ana", reason="how would it do?", expected_epoch=expected)


def _unshadow(bench: Bench, expected: int | None = None) -> ModelChange:
    return promoter(bench).unshadow(actor="ana", reason="seen enough", expected_epoch=expected)


def _beside(bench: Bench) -> tuple[str | None, str | None]:
    """Champion and shadow: by the rows, as by the topic."""
    found: list[list[registry.Version]] = []
    bench.bus.write(lambda cursor: found.append(registry.versions(cursor)) or [])
    champions = [version.version for version in found[0] if version.champion]
    shadows = [version.version for version in found[0] if version.shadow]
    told = registry.shadowing(registry.announced(bench.bus))
    assert shadows == ([told.version] if told else [])
    return champions[0] if champions else None, shadows[0] if shadows else None


def test_a_shadow_is_a_row_and_a_record_and_leaves_the_champion_where_it_is(registered: Bench) -> None:
    _promote(registered, "a")
    change = _shadow(registered, "b", expected=1)
    assert (change.epoch, change.version, change.action, change.previous) == (2, "b", "shadow", "a")
    assert _beside(registered) == ("a", "b")
    assert _shadow(registered, "c", expected=1).epoch == 3, "the champion's epoch is what it was"
    assert _beside(registered) == ("a", "c")
    change = _unshadow(registered, expected=1)
    assert (change.epoch, change.version, change.action, change.previous) == (4, "c", "unshadow", "a")
    assert _beside(registered) == ("a", None)
    rows, announced = _ledger(registered), registry.announced(registered.bus)
    assert registry.verify(rows, announced) == []
    assert [(row.action, row.version, row.champion) for row in rows] == [
        ("promote", "a", None), ("shadow", "b", "a"), ("shadow", "c", "a"), ("unshadow", "c", "a"),
    ]  # fmt: skip
    assert [change.epoch for change in announced] == [1, 2, 3, 4]


def test_a_shadow_ends_with_its_champion_and_is_no_champion_to_go_back_to(registered: Bench) -> None:
    _promote(registered, "a")
    _shadow(registered, "b")
    assert _promote(registered, "c", expected=1).previous == "a"
    assert _beside(registered) == ("c", None)
    _shadow(registered, "b")
    assert promoter(registered).rollback(actor="bo", reason="worse", expected_epoch=3).version == "a"
    assert _beside(registered) == ("a", None)
    _shadow(registered, "b")
    assert _promote(registered, "b").previous == "a"
    assert _beside(registered) == ("b", None)
    assert registry.verify(_ledger(registered), registry.announced(registered.bus)) == []


def test_what_is_on_record_only_does_not_end_a_shadow(registered: Bench) -> None:
    _promote(registered, "a")
    _shadow(registered, "b")
    registered.bus.write(
        lambda cursor: registry.decide(cursor, "refuse", "c", actor="trainer", reason="", evidence={}) and []
    )
    assert _beside(registered) == ("a", "b")
    assert registry.verify(_ledger(registered), registry.announced(registered.bus)) == []


def test_a_shadow_that_can_not_be_is_refused_and_changes_nothing(registered: Bench) -> None:
    with pytest.raises(registry.Conflict, match="no champion to shadow"):
        _shadow(registered, "a")
    _promote(registered, "a")
    with pytest.raises(registry.Conflict, match="a is the champion already"):
        _shadow(registered, "a")
    with pytest.raises(registry.Conflict, match="no model shadows"):
        _unshadow(registered)
    with pytest.raises(Rejected, match="no model zzz"):
        _shadow(registered, "zzz")
    with pytest.raises(registry.Conflict, match="epoch is 1, not 2"):
        _shadow(registered, "b", expected=2)
    _shadow(registered, "b")
    with pytest.raises(registry.Conflict, match="b shadows the champion already"):
        _shadow(registered, "b")
    with pytest.raises(registry.Conflict, match="epoch is 1, not 2"):
        _unshadow(registered, expected=2)
    assert len(_ledger(registered)) == len(registry.announced(registered.bus)) == 2


def test_the_newest_that_is_told_decides_in_whichever_order_they_come() -> None:
    def change(epoch: int, action: ModelAction) -> ModelChange:
        return ModelChange(epoch=epoch, version=str(epoch), action=action, previous=None, at=1)

    begun = change(4, "shadow")
    assert registry.shadowing([]) is None
    assert registry.shadowing([change(3, "unshadow"), begun, change(1, "promote")]) is begun
    for action in get_args(ModelAction):
        ended = registry.shadowing([change(5, action), begun])
        assert (ended.epoch if ended else None) == (5 if action == "shadow" else None)


def test_the_commands_shadow_and_tell_of_it(registered: Bench) -> None:
    def call(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["models", *arguments], env=registered.settings.environment())

    _promote(registered, "a")
    said = call("shadow", "b", "--reason", "how would it do?", "--actor", "ana", "--expected-epoch", "1")
    assert (said.exit_code, said.output) == (0, "epoch 2: b shadows a\n")
    lines = [line.split()[:2] for line in call("list").output.splitlines()]
    assert ["*", "a"] in lines and ["~", "b"] in lines
    listed = {model["version"]: model for model in msgspec.json.decode(call("list", "--json").stdout)}
    assert [(listed[v]["champion"], listed[v]["shadow"]) for v in "abc"] == [
        (True, False), (False, True), (False, False),
    ]  # fmt: skip
    shown = {version: msgspec.json.decode(call("show", version).stdout) for version in "ab"}
    decisions = shown["a"].pop("decisions")
    assert [(row["epoch"], row["action"], row["version"]) for row in decisions] == [(1, "promote", "a")]
    assert shown["a"] == listed["a"] | {"comparison": None}
    assert [(row["epoch"], row["action"]) for row in shown["b"]["decisions"]] == [(2, "shadow")]
    assert shown["b"]["comparison"]["n"] == 0
    refused = call("shadow", "b", "--reason", "again")
    assert refused.exit_code == 3 and "shadows the champion already" in " ".join(refused.stderr.split())
    refused = call("unshadow", "--reason", "x", "--expected-epoch", "7")
    assert refused.exit_code == 3 and "epoch is 1, not 7" in " ".join(refused.stderr.split())
    assert call("unshadow", "--reason", "seen enough").output == "epoch 3: b no longer shadows a\n"
    assert msgspec.json.decode(call("show", "b").stdout)["comparison"] is None


def _forge(bench: Bench, statement: str, *arguments: str) -> None:
    """As somebody who owns the database could."""

    def write(cursor: registry.Cursor) -> list[Outgoing]:
        cursor.execute("ALTER TABLE ledger DISABLE TRIGGER ledger_append_only")
        cursor.execute(statement, arguments)
        cursor.execute("ALTER TABLE ledger ENABLE TRIGGER ledger_append_only")
        return []

    bench.bus.write(write)


def test_rows_taken_off_the_end_and_a_ledger_written_anew_are_found_by_the_topic(registered: Bench) -> None:
    for version in ("a", "b", "c"):
        _promote(registered, version)
    announced = registry.announced(registered.bus)
    assert registry.verify(_ledger(registered), announced) == []
    _forge(registered, "DELETE FROM ledger WHERE epoch = 3")
    assert registry.verify(_ledger(registered)) == [], "the chain can't tell"
    (problem,) = registry.verify(_ledger(registered), announced)
    assert problem.startswith("row 3: `models` tells of a promote of c")
    _forge(registered, "DELETE FROM ledger")
    for version in ("a", "c"):
        _promote(registered, version)
    assert registry.verify(_ledger(registered)) == []
    assert registry.verify(_ledger(registered), announced) != []


@pytest.mark.parametrize("evidence", ["no JSON", "[1]", "[" * 100_000])
def test_evidence_that_was_made_unreadable_is_reported(registered: Bench, evidence: str) -> None:
    for version in ("a", "b"):
        _promote(registered, version)
    _forge(registered, "UPDATE ledger SET evidence = %s WHERE epoch = 1", evidence)
    assert registry.verify(_ledger(registered)) == ["row 1: its content was changed after it was written"]


def test_files_come_back_whole_and_tampering_is_refused(registered: Bench, tmp_path: Path) -> None:
    def fetch(cursor: registry.Cursor) -> list[Outgoing]:
        folder = registry.fetch(cursor, "a", tmp_path / "cache")
        assert (folder / "head.safetensors").read_bytes() == b"h" * 3_000_000
        return []

    registered.bus.write(fetch)
    registered.bus.write(lambda cursor: cursor.execute("UPDATE model_blob SET bytes = 'x' WHERE part = 1") or [])
    with pytest.raises(Rejected, match="recorded hash"):
        registered.bus.write(lambda cursor: registry.fetch(cursor, "a", tmp_path / "other") and [])
