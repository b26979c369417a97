"""The real `tickerloop`, run and read from outside: its command, its database, its REST. Imports nothing of it."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg2
import redis

COMMAND = [sys.executable, "-m", "services.cli"]
VICTIMS = ("clean", "score", "store", "feedback", "trainer", "monitor", "gateway", "relay", "ingest")


def free_port() -> int:
    """A port free on loopback now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(condition: Callable[[], Any], seconds: float, otherwise: str) -> Any:
    """The first true answer of `condition`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.1)
    return found


class TickerLoop:
    """`tickerloop up` on `data`, which lies in an `open_folder`; `options` are further ones of its command."""

    def __init__(
        self, data: Path, bus: str = "embedded", settings: dict[str, str] | None = None, options: Sequence[str] = ()
    ) -> None:
        self.data, self.port = data, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = os.environ | {"TICKERLOOP_DATA": str(data)} | (settings or {})
        self.log = data / "up.out"
        data.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [*COMMAND, "up", "--data", str(data), "--port", str(self.port), "--bus", bus, *options],
                stdout=out, stderr=out, env=self.environment, start_new_session=True,
            )  # fmt: skip

    def __enter__(self) -> TickerLoop:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            with suppress(subprocess.CalledProcessError, KeyError):
                states = {s["name"]: s["alive"] and s["state"] for s in self.status()["services"]}
                if {"clean", "score", "store", "monitor", "gateway"} <= states.keys() and "starting" not in (
                    states[name] for name in ("clean", "score", "store", "gateway")
                ):
                    return self
            time.sleep(0.3)
        self.__exit__()
        raise AssertionError(f"tickerloop did not come up:\n{self.log.read_text()[-4000:]}")

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(90)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def run(self, *arguments: str, timeout: float = 600) -> str:
        """A tickerloop command's standard output."""
        done = self.call(*arguments, timeout=timeout)
        done.check_returncode()
        return done.stdout

    def call(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """A tickerloop command, whatever it ends with."""
        return subprocess.run(
            [*COMMAND, *arguments], env=self.environment, capture_output=True, text=True, timeout=timeout
        )

    def start(self, *arguments: str, stdin: int | None = None) -> subprocess.Popen[bytes]:
        """A tickerloop command beside."""
        with (self.data / "command.out").open("ab") as out:
            return subprocess.Popen([*COMMAND, *arguments], env=self.environment, stdin=stdin, stdout=out, stderr=out)

    def status(self) -> dict[str, Any]:
        """`tickerloop status --json`."""
        found: dict[str, Any] = json.loads(self.run("status", "--json", timeout=60))
        return found

    def settings(self) -> dict[str, str]:
        """What `up` announces: the servers it runs."""
        found: dict[str, str] = json.loads((self.data / "run.json").read_text())
        return found

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Ask its database."""
        url = self.settings()["TICKERLOOP_DATABASE"]
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()

    def execute(self, *statements: str) -> None:
        """Change its database behind its back."""
        with closing(psycopg2.connect(self.settings()["TICKERLOOP_DATABASE"])) as connection, connection:
            for statement in statements:
                connection.cursor().execute(statement)

    def post(self, path: str, body: Any) -> dict[str, Any]:
        """What the gateway answers when it takes `body`."""
        answer = httpx.post(self.url + path, json=body, timeout=30)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def children(self) -> list[psutil.Process]:
        """Every process of it but `up` itself."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def server(self, name: str) -> psutil.Process:
        """The live embedded server whose program is named `name`."""
        (found,) = (c for c in psutil.Process(self.process.pid).children() if c.name() == name)
        return found

    def wait_for_log(self, words: str, seconds: float = 30) -> None:
        """Until `up` has said so."""
        eventually(lambda: words in self.said(), seconds, f"up never said {words!r}")

    def said(self) -> str:
        """All that `up` wrote, without its colours and line breaks."""
        return " ".join(self.log.read_text().split())

    def wipe_valkey(self) -> None:
        """Lose everything Valkey holds."""
        with closing(redis.Redis.from_url(self.settings()["TICKERLOOP_REDIS"])) as client:
            client.flushall()


class Killer:
    """Kills services with -9, seeded."""

    def __init__(self, loop: TickerLoop, seed: int) -> None:
        self._loop, self._random = loop, random.Random(seed)
        self.killed: list[str] = []

    def pause(self, low: float, high: float) -> None:
        """Let it run for a random while."""
        time.sleep(self._random.uniform(low, high))

    def strike(self) -> None:
        """Kill one live service; which one is in `killed`."""
        rows = self._loop.rows("SELECT name, pid FROM service ORDER BY name, slot")
        candidates = [(name, pid) for name, pid in rows if name in VICTIMS and Path(f"/proc/{pid}").exists()]
        name, pid = self._random.choice(candidates)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.killed.append(name)

    def toss(self, share: float) -> bool:
        """True with probability `share`."""
        return self._random.random() < share
