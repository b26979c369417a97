"""What a log is told of a run."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from services.ingest import progress


def test_a_line_says_how_far_it_is_and_how_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    shown = progress.Plain(Console(file=out))
    shown.begin("a.csv")
    for at, texts, fraction in [(101, 100, 0.5), (106, 600, 0.6), (111, 1_100, 0.7), (117, 1_700, None)]:
        now[0] = at
        shown.moved(texts, 0, fraction)
    assert out.getvalue().splitlines() == [
        "a.csv: 600 texts, 100/s, 60%, 20 s left",
        "a.csv: 1,100 texts, 100/s, 70%, 15 s left",
        "a.csv: 1,700 texts, 100/s",
    ]
