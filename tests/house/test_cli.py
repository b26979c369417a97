"""What the command line means, before anything starts and where nothing runs: misuse and failures in a line each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import httpx
import pytest
from click.testing import CliRunner, Result

from services import cli, status
from services.cli import main, up
from services.demo import run as demo
from services.status import Account, Service, Status
from services.trainer.registry import Champion

NOBODY = {"TICKERLOOP_DATABASE": "postgresql://nobody@127.0.0.1:1/none"}
"""A server that isn't there."""


def call(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, arguments, env=environment)


def test_options_of_up_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKERLOOP_BUS", "kafka://127.0.0.1:9092")
    monkeypatch.setenv("TICKERLOOP_PORT", "9000")
    given = up.make_context("up", ["--port", "9001"]).params
    assert given["bus"] == "kafka://127.0.0.1:9092"
    assert given["port"] == 9001, "what is typed wins"


@pytest.mark.parametrize(
    ("replicas", "words"),
    [
        ("score=x", "SERVICE=N"),
        ("score=-1", "SERVICE=N"),
        ("score", "SERVICE=N"),
        ("scores=2", "no service scores"),
        ("gateway=2", "one port"),
        ("score=2", "TICKERLOOP_SCORE_PORT"),
    ],
)
def test_replicas_that_can_not_be_are_misuse(replicas: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKERLOOP_SCORE_PORT", "8090")
    with (
        pytest.raises(click.UsageError, match=words),
        up.make_context("up", ["--replicas", replicas]) as context,
    ):
        up.invoke(context)


def test_the_help_tells_the_exit_codes() -> None:
    assert "Exit codes: 0 done, 1 a check found something wrong, 2 misuse, 3" in " ".join(call("--help").output.split())


def test_a_wait_that_takes_too_long_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(*_: object) -> None:
        raise TimeoutError("texts are still under way after 3600 s")

    monkeypatch.setattr(status, "wait_idle", wait)
    answer = call("status", "--wait", **NOBODY)
    assert answer.exit_code == 3 and "still under way" in answer.output


def test_an_offset_that_is_no_number_is_misuse() -> None:
    answer = call("replay", "store", "--topic", "texts.raw", "--from", "offset:abc", **NOBODY)
    assert answer.exit_code == 2 and "not 'offset:abc'" in " ".join(answer.output.split())


def test_a_service_without_its_cache_says_which_variable_is_missing(database: str) -> None:
    environment = {"PATH": "/usr/bin", "TICKERLOOP_DATABASE": database}
    command = [sys.executable, "-m", "services.cli", "run", "store"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, cwd=root)
    assert done.returncode == 3
    assert "TICKERLOOP_REDIS" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("error", [TimeoutError("the trainer has not decided"), httpx.ReadTimeout("timed out")])
def test_a_demo_that_breaks_off_says_where_to_look(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def start(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(demo, "Up", start)
    answer = call("demo", "--data", str(tmp_path / "demo"))
    said = " ".join(answer.output.split())
    assert answer.exit_code == 3 and f"broke off: {error}" in said and "/log)" in said


def test_status_shows_what_each_scorer_serves_and_what_it_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    serving = {"model": "abc", "epoch": 3}
    refusing = serving | {"refused": {"epoch": 4, "reason": "its file [head] is damaged"}}
    shadow = {"model": "ghi", "epoch": 5, "state": "refused", "reason": "no room [here]"}
    services = [
        Service("score", 0, 11, "running", True, None, {"model": "def", "epoch": 4, "shadow": shadow}),
        Service("score", 1, 12, "running", True, None, refusing),
        Service("store", 0, 13, "running", True, None, {}),
    ]
    cli._print_status(Status(Account(0, 0, 0, 0, 0, {}), 0, Champion(4, "def"), [], {}, services, {}))
    said = capsys.readouterr().out
    lines = [line.split() for line in said.splitlines()]
    assert ["score", "0", "11", "running", "def", "4"] in lines
    assert ["score", "1", "12", "running", "abc", "3"] in lines
    assert ["store", "0", "13", "running"] in lines
    assert "score 1 refuses the model of epoch 4: its file [head] is damaged" in said
    assert "score 0 can't load the shadow ghi: no room [here]" in said
