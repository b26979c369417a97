"""A real Kafka broker for the tests, one per session, started by `ops/kafka/broker` in a temporary folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.doctor import recent_java

SCRIPT = Path(__file__).parents[1] / "ops" / "kafka" / "broker"
MISSING = "needs Java 17 and Maven: apt-get install openjdk-17-jre-headless maven"


class Broker:
    """`bootstrap` stays the same across restarts."""

    def __init__(self, folder: Path, port: int, script: Path = SCRIPT) -> None:
        self._folder, self._port, self._script = folder, port, script
        self.bootstrap = f"127.0.0.1:{port}"

    def start(self) -> None:
        """Start, or do nothing; ready on return."""
        self._run("start")

    def stop(self) -> None:
        self._run("stop")

    def crash(self) -> None:
        """kill -9."""
        self._run("kill9")

    def _run(self, command: str) -> None:
        done = subprocess.run([self._script, command, self._folder, str(self._port)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def free_ports() -> int:
    """A port that is free, as is the next one, which the controller takes."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def need_kafka() -> None:
    """Skip where Java or Maven is missing; in CI fail."""
    if not (recent_java() and shutil.which("mvn")):
        if os.environ.get("CI") == "true":
            pytest.fail(MISSING)
        pytest.skip(MISSING)


@contextmanager
def fresh_broker(folder: Path) -> Iterator[Broker]:
    """A broker that nothing was written to yet."""
    broker = Broker(folder, free_ports())
    broker.start()
    try:
        yield broker
    finally:
        broker.crash()  # nothing of it is kept, and a clean end writes out every topic first


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Skips where Java or Maven is missing, except in CI."""
    need_kafka()
    with fresh_broker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker
