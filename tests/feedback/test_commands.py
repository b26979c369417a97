"""`tickerloop annotators` and `tickerloop quarantine`."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from click.testing import CliRunner, Result

from services.cli import main
from services.trainer.anchors import anchors


def call(database: str, *arguments: str, exit_code: int = 0) -> Result:
    answer = CliRunner().invoke(main, arguments, env={"TICKERLOOP_DATABASE": database, "COLUMNS": "160"})
    assert answer.exit_code == exit_code, answer.output
    return answer


@pytest.fixture
def filled(database: str) -> str:
    """ana, who answered gold well, and a finding against bo."""
    with closing(psycopg2.connect(database)) as connection, connection, connection.cursor() as cursor:
        for anchor in anchors()[:22]:
            cursor.execute(
                "INSERT INTO gold_answer VALUES (%s, '[ana]', 'annotator', %s, %s, true, 1)",
                (anchor.id, anchor.id, anchor.label),
            )
        cursor.execute(
            "INSERT INTO quarantine (annotator, reason, subject, detail, words, found)"
            " VALUES ('bo', 'one-sided', 'positive', '50 of [50]', '{e1,e2}', 5)"
        )
    return database


def test_nothing_is_said_to_be_there(database: str) -> None:
    assert "nobody has said anything" in call(database, "annotators", "list").stdout
    assert "nothing is set aside" in call(database, "quarantine", "list").stdout


def test_annotators_are_listed_and_shown(filled: str) -> None:
    said = call(filled, "annotators", "list").stdout
    assert "[ana]" in said and "qualified" in said and "22 of 22" in said
    (ana,) = json.loads(call(filled, "annotators", "list", "--json").stdout)
    assert (ana["state"], ana["gold"]["n"], ana["overlaps"]["n"]) == ("qualified", 22, 0)
    assert ana["reliability"]["low"] > 0.85
    said = call(filled, "annotators", "show", "[ana]").stdout
    assert "[ana], qualified" in said and "nothing of theirs was set aside" in said
    for part in ("gold", "recent", "negative", "neutral", "positive"):
        assert part in said
    shown: dict[str, Any] = json.loads(call(filled, "annotators", "show", "[ana]", "--json").stdout)
    assert shown == {"standings": [ana], "quarantine": []}
    assert "annotators list" in call(filled, "annotators", "show", "nobody", exit_code=3).output


def test_what_is_set_aside_is_listed_and_decided(filled: str) -> None:
    said = call(filled, "quarantine", "list").stdout
    assert "one-sided positive" in said and "50 of [50]" in said and "held" in said
    (row,) = json.loads(call(filled, "quarantine", "list", "--json").stdout)
    assert (row["words"], row["state"]) == (["e1", "e2"], "held")
    said = call(filled, "quarantine", "release", str(row["id"]), "--actor", "boss").stdout
    assert "2 words of bo are released" in said
    assert "nothing is set aside" in call(filled, "quarantine", "list").stdout
    assert "released by boss" in call(filled, "quarantine", "list", "--all").stdout
    assert "refused" in call(filled, "quarantine", "refuse", str(row["id"])).stdout
    assert "quarantine list" in call(filled, "quarantine", "refuse", "99", exit_code=3).output
    call(filled, "quarantine", "refuse", "x", exit_code=2)


def test_the_help_names_every_state_and_reason() -> None:
    from typing import get_args

    from services.feedback.quarantine import Reason
    from services.feedback.trust import State

    for command, kinds in (("annotators", get_args(State)), ("quarantine", get_args(Reason))):
        said = call("", command, "--help").stdout
        assert all(f"\n    {kind} " in said or f"  {kind} " in said for kind in kinds)
