"""How `up` takes a folder: under one lock, leaving alone what it didn't make, and what its services are told."""

from __future__ import annotations

import fcntl
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.settings import Settings
from services.stream.errors import Misconfigured
from services.supervisor import up
from services.supervisor.process import Child
from services.supervisor.up import Supervised, Up, child_settings


class FarEnoughError(Exception):
    """The folder was taken; servers would be started now."""


@pytest.fixture(autouse=True)
def _no_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise FarEnoughError

    monkeypatch.setattr(Up, "_start_servers", stop)


def start(data: Path, *, fresh: bool = False, port: int = 0) -> Up:
    """An `up` that got as far as to its servers."""
    made = Up(Settings(database="", data=str(data), port=port), lambda _: None, fresh=fresh)
    with pytest.raises(FarEnoughError):
        made.__enter__()
    return made


@contextmanager
def locked(data: Path, how: int) -> Iterator[None]:
    with (data / up.LOCK).open("a+") as lock:
        fcntl.flock(lock, how)
        yield


def test_a_fresh_start_empties_only_what_a_fresh_start_made(tmp_path: Path) -> None:
    data = tmp_path / "demo"
    start(data, fresh=True)
    (data / "postgres").mkdir()
    (data / "postgres" / "PG_VERSION").touch()
    (data / "report.json").touch()
    start(data, fresh=True)
    assert {entry.name for entry in data.iterdir()} == {up.LOCK, up.DISPOSABLE}
    start(data)  # an ordinary one: from now on what lies there is somebody's
    (data / "report.json").touch()
    with pytest.raises(Misconfigured, match="left alone"):
        Up(Settings(database="", data=str(data)), lambda _: None, fresh=True).__enter__()
    assert (data / "report.json").exists()


def test_a_fresh_start_leaves_no_trace_in_a_folder_of_someone_elses(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(Misconfigured, match="left alone"):
        Up(Settings(database="", data=str(tmp_path)), lambda _: None, fresh=True).__enter__()
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_fresh_start_empties_nothing_under_one_that_runs(tmp_path: Path) -> None:
    start(tmp_path, fresh=True)
    (tmp_path / "report.json").touch()
    with locked(tmp_path, fcntl.LOCK_EX), pytest.raises(Misconfigured, match="already up"):
        Up(Settings(database="", data=str(tmp_path)), lambda _: None, fresh=True).__enter__()
    assert (tmp_path / "report.json").exists()


def test_a_command_that_asks_for_a_moment_does_not_keep_up_from_starting(tmp_path: Path) -> None:
    asking = threading.Event()

    def ask() -> None:
        with locked(tmp_path, fcntl.LOCK_SH):
            asking.set()
            time.sleep(0.3)

    thread = threading.Thread(target=ask)
    thread.start()
    asking.wait()
    start(tmp_path)
    thread.join()


def test_what_a_killed_one_announced_is_gone_with_the_lock_taken(tmp_path: Path) -> None:
    (tmp_path / up.RUN).write_text("{}")
    start(tmp_path)
    assert not (tmp_path / up.RUN).exists()


def test_port_nought_becomes_the_one_that_the_gateway_keeps(tmp_path: Path) -> None:
    port = start(tmp_path).settings.port
    assert port > 0
    with socket.create_server(("127.0.0.1", port)), pytest.raises(Misconfigured, match=f"listen on 127.0.0.1:{port}"):
        Up(Settings(database="", data=str(tmp_path), port=port), lambda _: None).__enter__()


def test_only_the_gateway_meets_the_world_and_shows_metrics() -> None:
    settings = Settings(database="postgresql://x", host="::", port=9000, metrics_port=9100)
    gateway, score = (child_settings(settings, name) for name in ("gateway", "score"))
    assert (gateway.host, gateway.port, gateway.metrics_port) == ("::", 9000, 0)
    assert (score.host, score.metrics_port) == ("127.0.0.1", 0)


def test_live_gauges_of_a_dead_service_are_forgotten(tmp_path: Path) -> None:
    service = Supervised(
        "gateway", 0, tmp_path, lambda: Child("gateway.0", [sys.executable, "-c", ""], tmp_path / "gateway.0.log")
    )
    pid = service.child.process.pid
    gone, kept = (tmp_path / f"{kind}_{pid}.db" for kind in ("gauge_livesum", "counter"))
    for file in (gone, kept):
        file.touch()
    service.child.process.wait()
    said: list[str] = []
    service.look(said.append)
    assert said and "gateway ended with 0" in said[0]
    assert not gone.exists() and kept.exists()
