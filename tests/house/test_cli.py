"""What the command line means before anything starts."""

from __future__ import annotations

import click
import pytest

from services.cli import up


def test_options_of_up_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKERLOOP_BUS", "kafka://127.0.0.1:9092")
    monkeypatch.setenv("TICKERLOOP_PORT", "9000")
    given = up.make_context("up", ["--port", "9001"]).params
    assert given["bus"] == "kafka://127.0.0.1:9092"
    assert given["port"] == 9001, "what is typed wins"


def test_replicas_that_are_no_number_are_misuse() -> None:
    with (
        pytest.raises(click.UsageError, match="SERVICE=N"),
        up.make_context("up", ["--replicas", "score=x"]) as context,
    ):
        up.invoke(context)
