"""`tickerloop up`: the embedded servers where none are named, migrations, topics, the first model, then every service.

A service that dies is restarted with backoff and says so. Ctrl-C asks the services to finish what they hold, then stops
the servers. The settings in force are kept in `<data>/run.json` (mode 600) while it runs: other commands find it there.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Final

import msgspec
from prometheus_client.multiprocess import mark_process_dead

from services.gateway.limits import limits_from
from services.gateway.names import check_reach
from services.keys import unrevoked
from services.runtime import listen
from services.settings import Settings, from_environment
from services.stream.database import migrate, transaction
from services.stream.errors import Misconfigured, Transient
from services.supervisor.process import Child
from services.supervisor.servers import PostgresServer, ValkeyServer, discard

SERVICES: Final = ("clean", "score", "store", "feedback", "trainer", "monitor", "gateway")
RESTART_FIRST_S: Final = 0.2
RESTART_LAST_S: Final = 30.0
STEADY_S: Final = 20.0
"""A service that ran this long starts afresh with the shortest delay."""
HOUSEKEEPING_S: Final = 60.0
DRAIN_S: Final = 30.0
LOCKED_S: Final = 1.0
"""How long a start waits for the lock: other commands hold it for a moment when they ask whether something is up."""
LOCK: Final = "up.lock"
RUN: Final = "run.json"
DISPOSABLE: Final = "disposable"
"""Marks a folder whose content a fresh start made, and so may delete."""

Say = Callable[[str], None]


class Supervised:
    """One service kept alive."""

    def __init__(self, name: str, slot: int, metrics: Path, start: Callable[[], Child]) -> None:
        self.name, self.slot, self._metrics, self._start = name, slot, metrics, start
        self.child = start()
        self._delay = RESTART_FIRST_S
        self._started = time.monotonic()
        self._due: float | None = None

    def look(self, say: Say) -> None:
        """Notice a death, and start again when its time has come."""
        now = time.monotonic()
        if self._due is None and not self.child.alive:
            if now - self._started > STEADY_S:
                self._delay = RESTART_FIRST_S
            self._due = now + self._delay
            mark_process_dead(self.child.process.pid, str(self._metrics))  # type: ignore[no-untyped-call]
            say(
                f"{self.name} ended with {self.child.process.returncode}; again in {self._delay:.1f} s"
                f" (its log: {self.child.log})"
            )
            self._delay = min(RESTART_LAST_S, self._delay * 2)
        elif self._due is not None and now >= self._due:
            self._due, self._started = None, now
            self.child = self._start()


class Up:
    """Everything of one data folder. Use as a context manager; `watch` blocks until stopped.

    `fresh` starts from nothing: the folder is emptied first, if it holds nothing but what another fresh start made.
    On entry port 0 in `settings` becomes the free one that the gateway keeps.

    Raises:
        Misconfigured: something is up on the folder, the folder may not be emptied, the port is taken, a server doesn't
            start, or others could reach the gateway without a key.
    """

    def __init__(
        self, settings: Settings, say: Say, replicas: dict[str, int] | None = None, *, fresh: bool = False
    ) -> None:
        self._data = settings.data_folder
        self._metrics = self._data / "metrics"
        self._say = say
        self._fresh = fresh
        self._replicas = replicas or {}
        self._postgres: PostgresServer | None = None
        self._valkey: ValkeyServer | None = None
        self._services: list[Supervised] = []
        self._exits = contextlib.ExitStack()
        self.settings = settings

    def __enter__(self) -> Up:
        with contextlib.ExitStack() as exits:
            if self._fresh:
                _check_disposable(self._data)  # before anything is written into a folder of someone else's
            exits.enter_context(_only_one(self._data))
            (self._data / RUN).unlink(missing_ok=True)  # of one that was killed
            if self._fresh:
                _empty(self._data)
            else:
                (self._data / DISPOSABLE).unlink(missing_ok=True)
            port = _free_to_listen(self.settings.host, self.settings.port)
            self.settings = msgspec.structs.replace(self.settings, port=port)
            self._start_servers(exits)
            self._prepare()
            exits.enter_context(_announced(self._data, self.settings))
            self._start_services(exits)
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def _start_servers(self, exits: contextlib.ExitStack) -> None:
        logs = self._data / "log"
        if not self.settings.database:
            self._postgres = PostgresServer(self._data / "postgres", logs, self._say)
            exits.callback(self._postgres.stop)
            self._postgres.start()
            self.settings = msgspec.structs.replace(self.settings, database=self._postgres.url)
        if not self.settings.redis:
            self._valkey = ValkeyServer(logs)
            exits.callback(self._valkey.stop)
            self._valkey.start()
            self.settings = msgspec.structs.replace(self.settings, redis=self._valkey.url)

    def _prepare(self) -> None:
        from services.trainer.setup import register_bundled  # imports the model's libraries

        self._say("checking the database, the topics and the model")
        migrate(self.settings.database)
        check_reach(self.settings.host, limits_from(os.environ).hosts, self._has_keys())
        with contextlib.closing(self.settings.open_bus("up")) as bus:
            bus.create_topics()
            register_bundled(bus)

    def _has_keys(self) -> bool:
        with (
            contextlib.closing(self.settings.connector("up")()) as connection,
            transaction(connection),
            connection.cursor() as cursor,
        ):
            return bool(unrevoked(cursor))

    def _start_services(self, exits: contextlib.ExitStack) -> None:
        names = list(SERVICES)
        if self.settings.feeds:
            names.append("feeds")
        if self.settings.bus.startswith("kafka://"):
            names.append("relay")
        exits.callback(self._stop_services)
        self._metrics.mkdir(parents=True, exist_ok=True)
        for old in self._metrics.glob("*.db"):
            old.unlink()
        for name in names:
            for slot in range(self._replicas.get(name, 1)):
                self._services.append(Supervised(name, slot, self._metrics, partial(self._start, name, slot)))

    def _start(self, name: str, slot: int) -> Child:
        environment = child_settings(self.settings, name).environment() | {
            "TICKERLOOP_SUPERVISED": "1",
            "PROMETHEUS_MULTIPROC_DIR": str(self._metrics),
        }
        command = [sys.executable, "-m", "services.cli", "run", name, "--slot", str(slot)]
        return Child(f"{name}.{slot}", command, self._data / "log" / f"{name}.{slot}.log", environment=environment)

    def _stop_services(self) -> None:
        self._say("stopping; services finish what they hold")
        for service in self._services:
            service.child.ask_to_stop()
        deadline = time.monotonic() + DRAIN_S
        for service in self._services:
            service.child.stop(max(0.5, deadline - time.monotonic()))

    def watch(self, stop: threading.Event) -> None:
        """Restart what dies, apply retention, until `stop` is set."""
        housekeeping = time.monotonic()
        while not stop.wait(0.1):
            self._look_at_servers()
            for service in self._services:
                service.look(self._say)
            if time.monotonic() - housekeeping > HOUSEKEEPING_S:
                housekeeping = time.monotonic()
                with contextlib.suppress(Transient), contextlib.closing(self.settings.open_bus("up")) as bus:
                    bus.expire()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """`watch` in a thread beside, for the length of a block."""
        stop = threading.Event()
        thread = threading.Thread(target=self.watch, args=(stop,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _look_at_servers(self) -> None:
        for server in (self._postgres, self._valkey):
            if server is not None and server.child is not None and not server.child.alive:
                self._say(f"{server.child.name} ended with {server.child.process.returncode}; starting it again")
                server.start()

    def pids(self) -> dict[str, int]:
        """Process ids by service and slot, the embedded servers among them."""
        found = {f"{s.name}.{s.slot}": s.child.process.pid for s in self._services}
        for server in (self._postgres, self._valkey):
            if server is not None and server.child is not None:
                found[server.child.name] = server.child.process.pid
        return found


def child_settings(settings: Settings, name: str) -> Settings:
    """Those of one service under `up`: the gateway alone meets the world, and shows everyone's metrics."""
    host = settings.host if name == "gateway" else "127.0.0.1"
    return msgspec.structs.replace(settings, host=host, metrics_port=0)


def _check_disposable(data: Path) -> None:
    found = {entry.name for entry in data.iterdir()} if data.is_dir() else set()
    if found - {LOCK} and DISPOSABLE not in found:
        raise Misconfigured(f"{data} holds what no earlier run of this made, and is left alone; choose another --data")


def _empty(data: Path) -> None:
    _check_disposable(data)
    (data / DISPOSABLE).write_text("Whatever lies in this folder may be deleted by the next run of what made it.\n")
    for entry in data.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name not in (LOCK, DISPOSABLE):
            entry.unlink()
    discard(data / "postgres")


@contextlib.contextmanager
def _only_one(data: Path) -> Iterator[None]:
    data.mkdir(parents=True, exist_ok=True)
    with (data / LOCK).open("a+") as lock:
        if not _locked(lock):
            lock.seek(0)
            raise Misconfigured(
                f"tickerloop is already up on {data} (process {lock.read().strip() or '?'}); "
                "`tickerloop status` shows it, or choose another folder with --data"
            )
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _locked(lock: IO[str]) -> bool:
    deadline = time.monotonic() + LOCKED_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)


def _free_to_listen(host: str, port: int) -> int:
    """Look before anything is started: the gateway alone would try again and again behind someone else's page."""
    try:
        with listen(host, port) as listening:
            return int(listening.getsockname()[1])
    except OSError as error:
        raise Misconfigured(f"the gateway can't listen on {host}:{port}: {error.strerror}; choose --port") from None


@contextlib.contextmanager
def _announced(data: Path, settings: Settings) -> Iterator[None]:
    path = data / RUN
    unfinished = data / f".run.{os.getpid()}"
    unfinished.touch(mode=0o600)
    unfinished.write_text(json.dumps(settings.environment()))
    unfinished.rename(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def running(data: Path) -> Settings:
    """The settings of the `up` that runs on `data`.

    Raises:
        Misconfigured: none does.
    """
    try:
        if _held(data / LOCK):  # one that was killed leaves both files behind, but not the lock
            return from_environment(json.loads((data / RUN).read_text()))
    except FileNotFoundError:
        pass
    raise Misconfigured(
        f"nothing is up on {data}; start it with `tickerloop up`, or name servers by TICKERLOOP_DATABASE, "
        "TICKERLOOP_BUS and TICKERLOOP_REDIS"
    )


def _held(path: Path) -> bool:
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
