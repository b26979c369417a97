"""What all benchmarks stand on: the loop started afresh, texts, CPU time by service, medians, and where results go."""

from __future__ import annotations

import csv
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any, Final

import httpx
import msgspec
import psutil
from rich.console import Console

from services import status
from services.doctor import recent_java
from services.settings import Settings
from services.stream.database import transaction
from services.stream.errors import Transient
from services.supervisor.servers import free_port
from services.supervisor.up import Up

ROOT: Final = Path(__file__).parents[2]
BROKER: Final = ROOT / "ops" / "kafka" / "broker"
START_S: Final = 120.0

console = Console(stderr=True)


def machine() -> dict[str, Any]:
    """Where and on what the figures were taken."""
    names = [line.split(": ")[1] for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "python": platform.python_version(),
        "commit": _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain") else ""),
        "load_before": os.getloadavg()[0],
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def write(name: str, figures: Mapping[str, Any], where: Mapping[str, Any]) -> Path:
    """Store a benchmark's figures as `var/bench/<name>.json`."""
    path = ROOT / "var" / "bench" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode({"machine": where, **figures}), indent=2))
    return path


def medians(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Key by key: the median of numbers, anything else as the first run had it; the same within mappings."""
    found: dict[str, Any] = {}
    for key, value in runs[0].items():
        values = [run[key] for run in runs]
        if isinstance(value, Mapping):
            found[key] = medians(values)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[key] = median(values)
        else:
            found[key] = value
    return found


@contextmanager
def loop(bus: str, replicas: Mapping[str, int] | None = None, **changes: Any) -> Iterator[Up]:
    """A whole loop on a fresh folder: `bus` is embedded or kafka, with a broker of its own. Ready on entry.

    `replicas` are as those of `tickerloop up`.
    """
    # Under the project, not under /tmp, which may be memory.
    (ROOT / "var").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "var", prefix="bench-run-") as folder, _address(bus, folder) as address:
        settings = Settings(
            database="", bus=address, data=folder, models=str(ROOT / "var" / "models"), port=free_port(), **changes
        )
        with Up(settings, lambda _: None, dict(replicas or {})) as up, up.watched():
            _wait_ready(up)
            yield up


@contextmanager
def _address(bus: str, folder: str) -> Iterator[str]:
    if bus == "embedded":
        yield bus
        return
    port = str(_free_pair())
    where = Path(folder) / "kafka"
    subprocess.run([BROKER, "start", where, port], check=True, stdout=subprocess.DEVNULL)
    try:
        yield f"kafka://127.0.0.1:{port}"
    finally:
        subprocess.run([BROKER, "kill9", where, port], check=True, stdout=subprocess.DEVNULL)


def _free_pair() -> int:
    """A free port whose successor is free too: the broker's controller takes that one."""
    while True:
        port = free_port()
        with socket.socket() as probe, suppress(OSError, OverflowError):
            probe.bind(("127.0.0.1", port + 1))
            return port


def _wait_ready(up: Up) -> None:
    """Every service runs."""
    deadline = time.monotonic() + START_S
    states: dict[str, Any] = {}
    while time.monotonic() < deadline:
        with suppress(Transient):  # a new broker knows no groups for a while
            found = status.collect(up.settings).services
            states = {service.name: service.alive and service.state for service in found}
        started = {name for name, state in states.items() if state not in (False, "starting")}
        wanted = {name.rpartition(".")[0] for name in up.pids() if "." in name}
        if wanted <= started:
            return
        time.sleep(0.3)
    raise TimeoutError(f"not all services came up in {START_S:.0f} s: {states}")


def ingest(settings: Settings, corpus: Corpus) -> float:
    """Feed a file by the command a user would use; its wall time in seconds."""
    started = time.monotonic()
    command = [sys.executable, "-m", "services.cli", "ingest", str(corpus.path), *corpus.options]
    subprocess.run(command, env=os.environ | settings.environment(), check=True, capture_output=True, cwd=ROOT)
    return time.monotonic() - started


def accounted(settings: Settings, texts: int, timeout: float = 600.0) -> status.Account:
    """Wait until the store has counted `texts` taken and every one of them gone somewhere, and say where.

    Raises:
        TimeoutError: they haven't.
    """
    deadline = time.monotonic() + timeout
    with closing(settings.connector("bench")()) as connection:
        while time.monotonic() < deadline:
            with transaction(connection), connection.cursor() as cursor:
                cursor.execute("SELECT topic, reason, n FROM tally")
                found = status.account({(topic, reason): n for topic, reason, n in cursor.fetchall()})
            if found.taken >= texts and found.waiting <= 0:
                return found
            time.sleep(0.05)
    raise TimeoutError(f"of {texts} texts only {found.taken - found.waiting} were accounted for in {timeout:.0f} s")


def cleaned(settings: Settings) -> list[str]:
    """The texts that were scored, in the order in which they came."""
    with closing(settings.connector("bench")()) as connection, transaction(connection), connection.cursor() as cursor:
        cursor.execute("SELECT body FROM text JOIN prediction USING (text_id) ORDER BY origin_offset, origin_partition")
        return [body for (body,) in cursor.fetchall()]


def cpu_seconds(up: Up) -> dict[str, float]:
    """CPU time so far of each service and server, children included."""
    return {name.removesuffix(".0"): round(_cpu(psutil.Process(pid)), 2) for name, pid in up.pids().items()}


def _cpu(process: psutil.Process) -> float:
    """A child that ends meanwhile counts with its parent's next figure."""
    try:
        times = process.cpu_times()
        children = process.children()
    except psutil.NoSuchProcess:
        return 0.0
    own = times.user + times.system + times.children_user + times.children_system
    return float(own) + sum(map(_cpu, children))


def gateway(settings: Settings) -> httpx.Client:
    """A client of the loop's REST."""
    return httpx.Client(base_url=f"http://{settings.host}:{settings.port}", timeout=30.0)


def buses() -> tuple[str, ...]:
    """Those that this machine can run."""
    if recent_java() and (shutil.which("mvn") or any((ROOT / "var" / "kafka" / "libs").glob("*.jar"))):
        return ("embedded", "kafka")
    console.print("Kafka is left out: it needs Java 17 and Maven (apt-get install openjdk-17-jre-headless maven)")
    return ("embedded",)


class Corpus:
    """A CSV or JSONL file of texts: how many rows a user would ingest, and the distinct texts in them."""

    def __init__(self, path: Path, field: str) -> None:
        self.path, self.options = path, ("--text-field", field)
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file)) if path.suffix == ".csv" else [_json(line) for line in file]
        self.rows = len(rows)
        self.texts = list(dict.fromkeys(text for row in rows if isinstance(text := row.get(field), str)))


def _json(line: str) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(line)
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}
