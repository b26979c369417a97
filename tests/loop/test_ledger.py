"""The ledger tampered with by somebody who owns the database, or in an export: every row of it is found and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from loop.conftest import Bench
from loop.test_registry import _forge, _ledger, _promote

from services.cli import main
from services.stream.bus import Outgoing
from services.trainer import registry
from services.trainer.registry import LedgerRow

ODD = {"nan": float("nan"), "lone": "\ud800", "big": 1 << 70, "text": "☃ − \0"}
"""Evidence as an operator's client may send it, but for what no client can."""


@pytest.fixture
def written(bench: Bench) -> Bench:
    """Four rows: three champions, and one that was refused."""

    def write(cursor: registry.Cursor) -> list[Outgoing]:
        for version in ("a", "b", "c"):
            registry.register(cursor, version, None, {"model.json": b"{}"})
        return []

    bench.bus.write(write)
    _promote(bench, "a")
    _promote(bench, "b")
    bench.bus.write(
        lambda cursor: registry.decide(cursor, "refuse", "c", actor="trainer", reason="no", evidence=ODD) and []
    )
    _promote(bench, "c")
    return bench


def call(bench: Bench, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["models", *arguments], env=bench.settings.environment())


CHANGES = {
    "epoch": "99",
    "action": "'rollback'",
    "version": "'c'",
    "champion": "'c'",
    "actor": "'bo'",
    "reason": "reason || ' '",
    "evidence": """'{"p": 0.02}'""",
    "at": "at + 1",
    "previous": "repeat('0', 64)",
    "hash": "repeat('0', 64)",
}


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("column", LedgerRow.__struct_fields__)
def test_each_column_of_each_row(written: Bench, column: str, number: int) -> None:
    assert call(written, "verify").output == "4 rows, 0 problems\n"
    value = "'b'" if (column, number) in {("version", 3), ("version", 4)} else CHANGES[column]
    value = "repeat('1', 64)" if (column, number) == ("previous", 1) else value
    _forge(written, f"UPDATE ledger SET {column} = {value} WHERE epoch = {number}")  # noqa: S608 (our own)
    done = call(written, "verify")
    assert done.exit_code == 1 and any(line.startswith(f"row {number}:") for line in done.output.splitlines())


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_removed_row(written: Bench, number: int) -> None:
    _forge(written, "DELETE FROM ledger WHERE epoch::text = %s", str(number))
    done = call(written, "verify")
    assert done.exit_code == 1 and f"row {number}:" in done.output


def test_two_rows_that_change_places(written: Bench) -> None:
    """Each keeps its own hash."""
    for old, new in ((2, 99), (3, 2), (99, 3)):
        _forge(written, "UPDATE ledger SET epoch = %s::int WHERE epoch = %s::int", str(new), str(old))
    done = call(written, "verify")
    assert done.exit_code == 1 and {"row 2: its content", "row 3: its content"} <= {
        line.partition(" was")[0] for line in done.output.splitlines()
    }


def test_a_row_that_was_put_between(written: Bench) -> None:
    _forge(written, "UPDATE ledger SET epoch = 5 WHERE epoch = 4")
    _forge(written, "INSERT INTO ledger SELECT 4, action, version, champion, actor, reason, evidence, at, previous,"
                    " hash FROM ledger WHERE epoch = 3")  # fmt: skip
    done = call(written, "verify")
    assert done.exit_code == 1 and "row 4:" in done.output


# ── an export ────────────────────────────────────────────────────────────────────────────────────────────────────────


def checked(lines: list[str], folder: Path) -> Result:
    """Without a server."""
    (folder / "ledger.jsonl").write_text("\n".join(lines) + "\n")
    return CliRunner().invoke(main, ["models", "verify", "--file", str(folder / "ledger.jsonl")], env={})


def exported(bench: Bench) -> list[str]:
    done = call(bench, "export-ledger")
    assert done.exit_code == 0
    return done.stdout.splitlines()


def test_an_export_is_whole_and_says_so_anywhere(written: Bench, tmp_path: Path) -> None:
    lines = exported(written)
    assert len(lines) == 4 and all(line.isascii() for line in lines)
    done = checked(lines, tmp_path)
    assert (done.exit_code, done.output) == (
        0,
        f"4 rows, 0 problems\nthe last has the hash {_ledger(written)[-1].hash}\n",
    )
    piped = CliRunner().invoke(main, ["models", "verify", "--file", "-"], input="\n".join(lines), env={})
    assert piped.exit_code == 0


@pytest.mark.parametrize("column", LedgerRow.__struct_fields__)
def test_each_column_of_an_exported_row(written: Bench, tmp_path: Path, column: str) -> None:
    lines = exported(written)
    row = json.loads(lines[1])
    row[column] = {int: 99, str: "other", dict: {"p": 1}}[type(row[column])]
    done = checked([lines[0], json.dumps(row), *lines[2:]], tmp_path)
    assert done.exit_code == 1 and any(line.startswith("row 2:") for line in done.output.splitlines())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: [lines[0], *lines[2:]], "row 2: its epoch is 3"),
        (lambda lines: [lines[0], lines[2], lines[1], lines[3]], "row 2: its epoch is 3"),
        (lambda lines: [lines[0], "no JSON", *lines[2:]], "line 2 holds no row"),
        (lambda lines: [lines[0], '{"epoch": 2}', *lines[2:]], "line 2 holds no row"),
    ],
)
def test_a_row_that_is_missing_moved_or_unreadable(
    written: Bench, tmp_path: Path, change: Callable[[list[str]], list[str]], words: str
) -> None:
    done = checked(change(exported(written)), tmp_path)
    assert done.exit_code == 1 and words in done.output
