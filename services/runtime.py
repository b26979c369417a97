"""What every service's process has: settings, a stop signal, connections, a heartbeat row. `run` is its whole life."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import redis
from prometheus_client import start_http_server
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from services.settings import LogLevel, Settings
from services.stream.bus import Bus
from services.stream.database import Connect, mapped, suppress_lost, transaction
from services.stream.errors import Fatal, Misconfigured, Transient
from services.stream.loop import Backoff, Hooks, Loop
from services.stream.trips import Trips
from services.supervisor.process import die_with_parent

BEAT_S: Final = 1.0
NEWS_S: Final = 0.1
"""How often it is looked whether there is something new to show before the next beat is due."""
EXIT_FATAL: Final = 3

log = logging.getLogger(__name__)


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def listen(host: str, port: int) -> socket.socket:
    """A listening socket on an IPv4 or IPv6 address or a name; port 0 takes a free one.

    Raises:
        OSError: the port is taken, or the address is not this machine's.
    """
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def address(host: str, port: int) -> str:
    """How a client writes it."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Context:
    """One service's process. Connections are opened where they are used, never shared between threads."""

    def __init__(self, settings: Settings, name: str, slot: int = 0) -> None:
        self.settings, self.name, self.slot = settings, name, slot
        self.stop = threading.Event()
        self.connect: Connect = settings.connector(name)
        self.state = "starting"
        self.detail: dict[str, Any] = {}
        """Shown by `tickerloop status`; a service replaces the whole dict."""
        self.address: str | None = None

    def bus(self) -> Bus:
        """A bus of this thread's own; only one of a process may `publish`."""
        return self.settings.open_bus(self.name, self.slot)

    def valkey(self, timeout_s: float = 5.0, retries: int = 3) -> redis.Redis:
        """A client that reconnects by itself a few times; then its errors are for the caller to map.

        Raises:
            Misconfigured: no server is named.
        """
        if not self.settings.redis:
            raise Misconfigured(f"{self.name} needs Valkey or Redis: set TICKERLOOP_REDIS=redis://host:port")
        return redis.Redis.from_url(
            self.settings.redis,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            health_check_interval=10,
            retry=Retry(ExponentialBackoff(cap=0.5, base=0.02), retries),
        )

    def loop(
        self, group: str, *topics: str, max_records: int = 500, every_s: float = 0.0, hooks: Hooks | None = None
    ) -> Loop:
        """The consumer loop of `group`, which this process joins under its slot; see `Loop`."""
        return Loop(
            self.bus(),
            group,
            topics,
            self.stop,
            Trips(self.connect, group),
            slot=self.slot,
            max_records=max_records,
            every_s=every_s,
            hooks=hooks,
        )

    def beat(self) -> None:
        """Write this process's row once a second and where it has changed, until stopped; a lost database is waited
        for."""
        backoff = Backoff(self.stop)
        started = now_ms()
        while not self.stop.is_set():
            try:
                connection = self.connect()
                try:
                    while not self.stop.is_set():
                        shown = self.state, self.detail
                        with transaction(connection), connection.cursor() as cursor:
                            cursor.execute(
                                "INSERT INTO service (name, slot, pid, address, state, detail, started, beat)"
                                " VALUES (%(name)s, %(slot)s, %(pid)s, %(address)s, %(state)s, %(detail)s,"
                                " %(started)s, %(beat)s) ON CONFLICT (name, slot) DO UPDATE SET"
                                " pid = excluded.pid, address = excluded.address, state = excluded.state,"
                                " detail = excluded.detail, started = excluded.started, beat = excluded.beat",
                                {
                                    "name": self.name,
                                    "slot": self.slot,
                                    "pid": os.getpid(),
                                    "address": self.address,
                                    "state": shown[0],
                                    "detail": json.dumps(shown[1]),
                                    "started": started,
                                    "beat": now_ms(),
                                },
                            )
                        backoff.reset()
                        due = time.monotonic() + BEAT_S
                        while (self.state, self.detail) == shown and time.monotonic() < due:
                            if self.stop.wait(NEWS_S):
                                break
                finally:
                    with suppress_lost():
                        connection.close()
            except Transient:
                backoff.wait()

    def gone(self) -> None:
        """Remove the row: this process ended on purpose."""
        try:
            connection = self.connect()
            with transaction(connection), connection.cursor() as cursor:
                cursor.execute("DELETE FROM service WHERE name = %s AND slot = %s", (self.name, self.slot))
            with mapped():
                connection.close()
        except Transient as error:
            log.info("could not sign off: %s", error)


def configure_logging(name: str, level: LogLevel) -> None:
    """One line per message on standard error: time, level, service, message.

    Libraries are heard from WARNING on, since Kafka's clients tell of every connection; DEBUG shows all they say.
    """
    logging.basicConfig(
        level="WARNING" if level == "INFO" else level,
        format=f"%(asctime)s %(levelname)-7s {name} %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("services").setLevel(level)


def run(service: Callable[[Context], None], settings: Settings, name: str, slot: int = 0) -> int:
    """Run a service until SIGTERM or SIGINT; its exit code. A fatal error is logged in one line, not a traceback."""
    configure_logging(f"{name}.{slot}", settings.log_level)
    context = Context(settings, name, slot)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: context.stop.set())
    if os.environ.get("TICKERLOOP_SUPERVISED"):
        die_with_parent(signal.SIGTERM)
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.host)
    beating = threading.Thread(target=context.beat, name="beat", daemon=True)
    beating.start()
    try:
        with_retries(context, service)
    except Fatal as error:
        log.error("%s", error)
        return EXIT_FATAL
    finally:
        context.stop.set()
        beating.join(timeout=2 * BEAT_S)
    context.gone()
    return 0


def with_retries(context: Context, service: Callable[[Context], None]) -> None:
    """Run `service`; while servers are away at its start, wait for them."""
    backoff = Backoff(context.stop)
    while not context.stop.is_set():
        try:
            service(context)
            return
        except Transient as error:
            log.warning("%s; trying again", error)
            backoff.wait()
