"""A group member, a journal or a stuck client as a process of its own, for the contract tests to mistreat.

Takes one JSON argument (see `BaseKit.member`) and reports JSON lines on standard output. Options:

    role     loop (default), journal, stuck
    step     transform (default): publish each record to `out`; sink: write it to the table `effect`; both
    sleep    seconds per batch, max_records
    held     the first batch waits inside the step until the file `hold` is gone
    upto     journal: how many numbers to publish, `size` at a time
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kit import events, insert_effects, open_bus, set_session
from psycopg2.extensions import cursor as Cursor

from services.stream.bus import Bus, Consumer, Outgoing, Record
from services.stream.database import connector
from services.stream.errors import Fatal, Transient
from services.stream.loop import Answer, Hooks, Loop
from services.stream.membership import Member
from services.stream.trips import Trips
from services.supervisor.process import die_with_parent

stop = threading.Event()


def report(kind: str, **values: Any) -> None:
    os.write(1, json.dumps({"kind": kind, **values}).encode() + b"\n")


def sever(port: int, flag: Path) -> None:
    """While the file `flag` exists, shut down every socket of this process that leads to `port`.

    Often enough that no new connection gets as far as a statement.
    """
    while True:
        time.sleep(0.002 if flag.exists() else 0.02)
        if flag.exists():
            for link in Path("/proc/self/fd").iterdir():
                with contextlib.suppress(OSError, IndexError):
                    if str(link.readlink()).startswith("socket:"):
                        shut(int(link.name), port)


def shut(number: int, port: int) -> None:
    with socket.socket(fileno=os.dup(number)) as copy:
        if copy.getpeername()[1] == port:
            copy.shutdown(socket.SHUT_RDWR)


class Work:
    """The step. Reports each batch before its commit."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self._owned: list[int] = []

    def before(self, consumer: Consumer) -> None:
        owned = sorted(place.partition for place in consumer.owned())
        if owned != self._owned:
            self._owned = owned
            report("owned", partitions=owned)

    def after(self, records: Sequence[Record]) -> None:
        report("committed", count=len(records), partitions=sorted({record.partition for record in records}))

    def linger(self, records: Sequence[Record]) -> None:
        report("step", count=len(records))
        hold = Path(self.config["hold"])
        if hold.exists():
            report("holding", numbers=[int(record.value) for record in records])
            while hold.exists():
                time.sleep(0.02)
            report("released")
        time.sleep(self.config.get("sleep", 0.0))

    def passed_on(self, records: Sequence[Record]) -> list[Answer]:
        return [[Outgoing(self.config["out"], record.key, record.value)] for record in records]

    def transform(self, records: Sequence[Record]) -> Sequence[Answer]:
        self.linger(records)
        return self.passed_on(records)

    def sink(self, records: Sequence[Record], cursor: Cursor) -> Sequence[Answer]:
        insert_effects(cursor, records, self.config["slot"])
        self.linger(records)
        return self.passed_on(records) if self.config["step"] == "both" else [[] for _ in records]


def run_loop(bus: Bus, config: dict[str, Any]) -> None:
    work = Work(config)
    connect = connector(config["bus"]["url"], config["bus"]["application"])
    loop = Loop(
        bus,
        config["group"],
        config["topics"],
        stop,
        Trips(connect, config["group"]),
        slot=config["slot"],
        max_records=config.get("max_records", 50),
        hooks=Hooks(before=work.before, after=work.after),
    )
    if config.get("step", "transform") == "transform":
        loop.transform(work.transform)
    else:
        loop.sink(work.sink)


def run_journal(bus: Bus, config: dict[str, Any]) -> None:
    """Publish the numbers after the journal's mark, open it again when the log was away."""
    size = config.get("size", 3)
    while not stop.is_set():
        try:
            journal = bus.journal(config["group"], config["out"])
            done = int(journal.mark or 0)
            report("opened", mark=done)
            while done < config["upto"]:
                upto = min(done + size, config["upto"])
                journal.publish(events(config["out"], range(done, upto)), str(upto))
                done = upto
                report("published", mark=done)
                time.sleep(config.get("sleep", 0.0))
            journal.close()
            return
        except Transient as error:
            report("again", error=repr(error))
            time.sleep(0.2)


def run_stuck(config: dict[str, Any]) -> None:
    """Hold a slot of the embedded log and sit inside a statement."""
    bus: Any = open_bus(config["bus"])
    connect = connector(config["bus"]["url"], config["bus"]["application"])
    member = Member(connect, config["group"], bus.places(config["topics"]), config["slot"])
    member.share_out()
    report("owned", partitions=sorted(place.partition for place in member.leases))
    with member.connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(300)")


def main() -> int:
    die_with_parent(signal.SIGKILL)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    config: dict[str, Any] = json.loads(sys.argv[1])
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    set_session(config["session_s"])
    threading.Thread(target=sever, args=(config["port"], Path(config["cut"])), daemon=True).start()
    report("started")
    try:
        if config.get("role") == "stuck":
            run_stuck(config)
        else:
            bus = open_bus(config["bus"])
            {"loop": run_loop, "journal": run_journal}[config.get("role", "loop")](bus, config)
            bus.close()
    except Fatal as error:
        report("ended", error=type(error).__name__, detail=str(error))
        return 3
    report("ended", error=None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
