"""What a service's log says: our own messages at the level asked for, a library's only from WARNING on."""

from __future__ import annotations

import subprocess
import sys

import pytest

from services.settings import LogLevel, from_environment
from services.stream.errors import Misconfigured

SPEAKERS = ("services.clean.worker", "kafka.conn", "aiokafka.consumer", "faust.app", "httpx", "somebody.new")


def _said(level: LogLevel) -> list[str]:
    speak = "; ".join(
        f"logging.getLogger({name!r}).{how}('{name} {how}')"
        for name in SPEAKERS
        for how in ("debug", "info", "warning")
    )
    code = f"import logging; from services.runtime import configure_logging as c; c('clean.0', {level!r}); {speak}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [line.split(" clean.0 ")[1] for line in done.stderr.splitlines()]


def test_libraries_are_heard_from_warnings_on() -> None:
    ours = ["services.clean.worker info"]
    assert _said("INFO") == ours + [f"{name} warning" for name in SPEAKERS]
    assert _said("ERROR") == []


def test_debug_shows_everything() -> None:
    assert len(_said("DEBUG")) == 3 * len(SPEAKERS)


def test_another_level_is_refused_by_name() -> None:
    with pytest.raises(Misconfigured, match="log_level"):
        from_environment({"TICKERLOOP_DATABASE": "postgresql://x", "TICKERLOOP_LOG_LEVEL": "LOUD"})
