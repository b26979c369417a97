"""What the contract tests stand on: a bus of either kind, member processes that can be killed, stopped and cut off."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from services.stream import membership
from services.stream.bus import Bus, Consumer, Outgoing, Record, TopicPartition
from services.stream.database import connector
from services.stream.errors import Transient
from services.stream.kafka import KafkaBus, client
from services.stream.postgres import PostgresBus
from services.stream.topics import Topic, dead

HERE = Path(__file__).parent
WAIT_S = float(os.environ.get("CONTRACT_WAIT", "60"))
"""A generous wait: other work may share the machine. Nothing here asserts speed."""
SEED = int(os.environ.get("CONTRACT_SEED", "20"))

_numbers = itertools.count(1)


class BaseKit:
    """What both kinds share. Topics: `source`, `out`, `short` (kept for a moment) and their `.dead`."""

    name = ""
    url = ""
    partitions = 4
    session_s = 3.0

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.prefix = f"t{os.getpid()}x{next(_numbers)}"
        self.source, self.out, self.short = (f"{self.prefix}.{name}" for name in ("source", "out", "short"))
        self.topics = (
            *(Topic(name, None) for topic in (self.source, self.out) for name in (topic, dead(topic))),
            Topic(self.short, SHORT_MS),
        )
        self.group = f"{self.prefix}.group"
        self.members: list[MemberProcess] = []
        self.last_offsets: dict[TopicPartition, int] = {}
        self.published = 0
        self.closing: list[Bus] = []

    def open(self) -> Bus:
        raise NotImplementedError

    def bus(self) -> Bus:
        """A bus as another process would open it; closed at the end of the test."""
        bus = self.open()
        self.closing.append(bus)
        return bus

    def connect(self) -> Connection:
        return connector(self.url, "contract")()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()

    def member(self, slot: int = 0, **options: Any) -> MemberProcess:
        """Start a member process; see `member.py` for its options."""
        config = {
            "bus": self.config(),
            "session_s": self.session_s,
            "group": self.group,
            "topics": [self.source],
            "slot": slot,
            "out": self.out,
            "port": self.port(),
            **options,
        }
        process = MemberProcess(config, self.folder / f"member{next(_numbers)}")
        self.members.append(process)
        return process

    def config(self) -> dict[str, Any]:
        raise NotImplementedError

    def port(self) -> int:
        """Where the log listens; `MemberProcess.cut` breaks connections to it."""
        raise NotImplementedError

    def forget_old(self, bus: Bus, topic: str) -> None:
        raise NotImplementedError

    def relay(self) -> contextlib.AbstractContextManager[None]:
        """Whatever must run beside members that write rows and events."""
        return contextlib.nullcontext()

    def close(self) -> None:
        for member in self.members:
            member.kill()
        for bus in self.closing:
            bus.close()


SHORT_MS = 300


class EmbeddedKit(BaseKit):
    name = "embedded"

    def open(self) -> PostgresBus:
        return PostgresBus(connector(self.url, self.prefix), self.partitions, self.topics)

    def config(self) -> dict[str, Any]:
        return {
            "kind": self.name,
            "url": self.url,
            "application": self.prefix,
            "partitions": self.partitions,
            "topics": [list(topic) for topic in self.topics],
        }

    def port(self) -> int:
        return int(urlsplit(self.url).port or 0)

    def forget_old(self, bus: Bus, topic: str) -> None:
        """Drop all that `topic` holds now."""
        assert topic == self.short
        time.sleep(SHORT_MS / 1000 + 0.2)
        assert bus.expire() > 0


class KafkaKit(BaseKit):
    name = "kafka"
    session_s = 6.0  # the shortest that a broker allows by default

    def __init__(self, folder: Path, url: str, servers: str) -> None:
        super().__init__(folder, url)
        self.servers = servers

    def open(self) -> Bus:
        return open_bus(self.config())

    def config(self) -> dict[str, Any]:
        return {
            "kind": self.name,
            "url": self.url,
            "servers": self.servers,
            "deployment": self.prefix,
            "application": self.prefix,
            "partitions": self.partitions,
            "topics": [list(topic) for topic in self.topics],
        }

    def port(self) -> int:
        return int(self.servers.rpartition(":")[2])

    def forget_old(self, bus: Bus, topic: str) -> None:
        """Drop all that `topic` holds now. A broker's own retention looks only every five minutes."""
        from kafka import KafkaAdminClient
        from kafka import TopicPartition as KafkaPartition

        with contextlib.closing(KafkaAdminClient(bootstrap_servers=self.servers)) as admin:
            admin.delete_records({KafkaPartition(*place): end for place, end in bus.ends(topic).items()})
        assert bus.expire() == 0

    @contextlib.contextmanager
    def relay(self) -> Iterator[None]:
        stop = threading.Event()
        bus: Any = self.bus()
        thread = threading.Thread(target=bus.relay, args=(stop,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(WAIT_S)
            assert not thread.is_alive()


def open_bus(config: Mapping[str, Any]) -> Bus:
    """The bus of a `config`, in a member process."""
    topics = [Topic(*topic) for topic in config["topics"]]
    connect = connector(config["url"], config["application"])
    if config["kind"] == "embedded":
        return PostgresBus(connect, config["partitions"], topics)
    return KafkaBus(
        config["servers"], connect, deployment=config["deployment"], partitions=config["partitions"], topics=topics
    )


def set_session(seconds: float) -> None:
    """Make sessions shorter, so that tests needn't wait. All members of a group must agree."""
    membership.SESSION_TIMEOUT_S = seconds  # type: ignore[misc]
    membership.BEAT_S = min(1.0, seconds / 6)  # type: ignore[misc]
    client.SESSION_MS = int(seconds * 1000)  # type: ignore[misc]


class MemberProcess:
    """A `member.py` process. What it reports comes as JSON lines in a file, so nothing is lost with it."""

    def __init__(self, config: Mapping[str, Any], stem: Path) -> None:
        self.slot = int(config["slot"])
        self.config = config
        self._reports, self._errors = stem.with_suffix(".jsonl"), stem.with_suffix(".log")
        self._cut = stem.with_suffix(".cut")
        self.hold = stem.with_suffix(".hold")
        command = [sys.executable, str(HERE / "member.py")]
        command.append(json.dumps({**config, "cut": str(self._cut), "hold": str(self.hold)}))
        environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
        if config.get("held"):
            self.hold.touch()
        with self._reports.open("w") as reports, self._errors.open("w") as errors:
            self.process = subprocess.Popen(command, stdout=reports, stderr=errors, env=environment)

    def reports(self, kind: str) -> list[dict[str, Any]]:
        """What it reported so far, of one kind: started, owned, step, holding, committed, published, ended."""
        complete = self._reports.read_text().rpartition("\n")[0]
        return [line for line in map(json.loads, complete.splitlines()) if line["kind"] == kind]

    def log(self) -> str:
        return self._errors.read_text()[-4000:]

    def wait_for(self, kind: str, count: int = 1, seconds: float = WAIT_S) -> dict[str, Any]:
        """The `count`-th report of a kind."""
        until(lambda: len(self.reports(kind)) >= count, f"{kind} of slot {self.slot}", seconds, self.log)
        return self.reports(kind)[count - 1]

    def owned(self) -> set[int]:
        """Partitions it owned when it last looked."""
        reports = self.reports("owned")
        return set(reports[-1]["partitions"]) if reports else set()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """Ask it to finish, and wait."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_S)

    def cut(self) -> None:
        """Break its connections to the log, and each new one, until `mend`."""
        self._cut.touch()

    def mend(self) -> None:
        self._cut.unlink()


def until(done: Callable[[], bool], what: str, seconds: float = WAIT_S, detail: Callable[[], str] = lambda: "") -> None:
    """Wait until `done`."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s\n{detail()}"
        time.sleep(0.05)


def events(topic: str, numbers: Sequence[int], keys: int = 16) -> list[Outgoing]:
    """Events numbered in order; the order per key can be told from the numbers."""
    return [Outgoing(topic, f"key{number % keys}".encode(), str(number).encode()) for number in numbers]


def publish(bus: Bus, wanted: Sequence[Outgoing]) -> list[tuple[TopicPartition, int]]:
    """Publish where the log is known to be up."""
    return list(bus.publish(wanted))


def poll(consumer: Consumer, seconds: float = WAIT_S) -> Any:
    """The next batch; members that have just joined may wait for their partitions."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(Transient):
            batch = consumer.poll(0.5)
            if batch is not None:
                return batch
    raise AssertionError(f"no batch within {seconds:.0f} s")


def read(bus: Bus, topic: str, count: int, seconds: float = WAIT_S, quiet: float = 0.7) -> list[Record]:
    """All records of a topic: at least `count` of them, and then none for `quiet` seconds, so that doubles show."""
    reader = bus.reader([topic])
    try:
        records: list[Record] = []
        deadline = time.monotonic() + seconds
        while len(records) < count and time.monotonic() < deadline:
            records += reader.poll(0.5)
        while more := reader.poll(quiet):
            records += more
        return records
    finally:
        reader.close()


def consume(consumer: Consumer, count: int, seconds: float = WAIT_S) -> list[Record]:
    """Poll and commit (with no output) until `count` records came."""
    records: list[Record] = []
    deadline = time.monotonic() + seconds
    while len(records) < count:
        assert time.monotonic() < deadline, f"{len(records)} of {count} records within {seconds:.0f} s"
        batch = consumer.poll(0.5)
        if batch is not None:
            consumer.transform(batch, [])
            records += batch.records
    return records


def once_in_order(seen: Sequence[tuple[str, int]], count: int) -> None:
    """Assert that (key, number) pairs, as they took effect, hold 0…count−1 once each, ascending per key."""
    times = Counter(number for _, number in seen)
    missing = [number for number in range(count) if number not in times]
    assert not missing, f"{len(missing)} of {count} lost, first {missing[:10]}"
    twice = [number for number, n in times.items() if n > 1]
    assert not twice, f"{len(twice)} of {count} twice, first {sorted(twice)[:10]}"
    assert len(times) == count, f"{len(times)} effects of {count} events"
    per_key: dict[str, list[int]] = defaultdict(list)
    for key, number in seen:
        per_key[key].append(number)
    for key, numbers in per_key.items():
        assert numbers == sorted(numbers), f"{key} out of order: {numbers}"


def pairs(records: Sequence[Record]) -> list[tuple[str, int]]:
    """Key and number of records, in offset order per partition."""
    return [(record.key.decode(), int(record.value)) for record in records]


def make_effects(kit: Any) -> None:
    """The table that sinks write to; nothing in it forbids a double."""
    with contextlib.closing(kit.connect()) as connection, connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE effect (n bigint GENERATED ALWAYS AS IDENTITY, key text, number int, slot int)")


def effects(kit: Any) -> list[tuple[str, int]]:
    """What sinks wrote, in order."""
    return [(key, number) for key, number in kit.rows("SELECT key, number FROM effect ORDER BY n")]


def insert_effects(cursor: Cursor, records: Sequence[Record], slot: int = 0) -> list[Outgoing]:
    """The sink's rows; no events."""
    for record in records:
        cursor.execute(
            "INSERT INTO effect (key, number, slot) VALUES (%s, %s, %s)",
            (record.key.decode(), int(record.value), slot),
        )
    return []


def retried(action: Callable[[], Any], seconds: float = WAIT_S) -> Any:
    """Repeat what may meet a lost server."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return action()
        except Transient:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@contextlib.contextmanager
def member_of(bus: Bus, kit: Any, slot: int = 0, **options: Any) -> Iterator[Consumer]:
    """A consumer in this process, closed at the end."""
    consumer = bus.consumer(options.pop("group", kit.group), options.pop("topics", [kit.source]), slot, **options)
    try:
        yield consumer
    finally:
        consumer.close()
