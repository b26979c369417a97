"""What the whole loop is doing now: lag by group, the account of every text, the model, each service's health."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Final

import msgspec
from psycopg2.extensions import cursor as Cursor

from services import store
from services.monitor import embedded, rows
from services.runtime import now_ms
from services.settings import Settings
from services.stream import topics
from services.stream.bus import Bus, TopicPartition, read_to_end
from services.stream.database import transaction
from services.trainer import registry
from services.trainer.progress import Training, under_way

ALIVE_MS: Final = 5_000
"""A service beats every second; five missed beats and it counts as dead."""

GROUPS: Final = {
    "clean": (topics.RAW,),
    "score": (topics.CLEAN,),
    store.GROUP: store.TOPICS,
    "feedback": (topics.FEEDBACK,),
    "trainer": (topics.EXAMPLES,),
    embedded.GROUP: (topics.MENTIONS,),
}
"""Consumer groups whose lag means work not done."""

ENDS: Final = {
    topics.dead(topics.RAW): ("ingest", "clean"),
    topics.dead(topics.CLEAN): ("score",),
    topics.dead(topics.REJECTED): (store.GROUP,),
    topics.dead(topics.PREDICTIONS): (store.GROUP,),
}
"""Whose letters on which topic are where a text ended."""

Positions = Mapping[TopicPartition, int]

PIPELINE: Final = ("clean", "score", store.GROUP, embedded.GROUP)


class Lag(msgspec.Struct, frozen=True):
    """One group on one topic, over all partitions."""

    group: str
    topic: str
    end: int
    position: int
    lag: int


class Account(msgspec.Struct, frozen=True):
    """Every text that came in, and where it went. `waiting` is what is still under way."""

    taken: int
    scored: int
    rejected: int
    duplicate: int
    dead: int
    reasons: dict[str, int]

    @property
    def waiting(self) -> int:
        """Texts taken and not yet accounted for; 0 once the loop is idle."""
        return self.taken - self.scored - self.rejected - self.duplicate - self.dead


class Service(msgspec.Struct, frozen=True):
    """One process."""

    name: str
    slot: int
    pid: int
    state: str
    alive: bool
    address: str | None
    detail: dict[str, object]


class Status(msgspec.Struct, frozen=True):
    """Everything `tickerloop status` shows."""

    account: Account
    waiting: int
    champion: registry.Champion | None
    lags: list[Lag]
    dead_letters: dict[str, int]
    services: list[Service]
    trips: dict[str, str]
    training: Training | None = None


def collect(settings: Settings) -> Status:
    """Ask the log and the database.

    Raises:
        Transient: a server is away.
    """
    with closing(settings.open_bus("status")) as bus:
        lags = [lag(settings, bus, group, topic) for group, names in GROUPS.items() for topic in names]
        dead_letters = {
            topic.name: sum(bus.ends(topic.name).values()) - sum(bus.begins(topic.name).values())
            for topic in settings.topics()
            if topic.name.endswith(topics.DEAD_SUFFIX)
        }
    with closing(settings.connector("status")()) as connection, transaction(connection), connection.cursor() as cursor:
        cursor.execute("SELECT topic, reason, n FROM tally")
        counted = account({(topic, reason): n for topic, reason, n in cursor.fetchall()})
        champion = registry.champion(cursor)
        training = under_way(cursor)
        found = services(cursor)
        cursor.execute("SELECT grp, reason FROM trip")
        trips = dict(cursor.fetchall())
    return Status(counted, counted.waiting, champion, lags, dead_letters, found, trips, training)


def services(cursor: Cursor) -> list[Service]:
    """Each process that has announced itself; alive if it beat within `ALIVE_MS`."""
    cursor.execute("SELECT name, slot, pid, state, beat, address, detail FROM service ORDER BY name, slot")
    now = now_ms()
    return [
        Service(name, slot, pid, state, now - beat < ALIVE_MS, address, detail)
        for name, slot, pid, state, beat, address, detail in cursor.fetchall()
    ]


def lag(settings: Settings, bus: Bus, group: str, topic: str) -> Lag:
    """Distance of a group from the end of one of its topics."""
    ends, begins = bus.ends(topic), bus.begins(topic)
    if group == embedded.GROUP and settings.bus != "embedded":
        done = _counted(settings, bus, topic, begins, ends)
    else:
        done = bus.committed(group, topic)
    end = sum(ends.values())
    position = sum(done.get(place, begins.get(place, 0)) for place in ends)
    return Lag(group, topic, end, position, end - position)


def _counted(settings: Settings, bus: Bus, topic: str, begins: Positions, ends: Positions) -> Positions:
    """Where the monitor stands on Kafka: its rows tell its last event, so what no reader sees is passed over here.

    Raises:
        Transient: the log doesn't tell whether an event follows.
    """
    with closing(settings.connector("status")()) as connection, transaction(connection), connection.cursor() as cursor:
        seen = rows.seen(cursor, bus.identity(topic), [place.partition for place in ends])
    start = {place: max(begin, seen.get(place.partition, -1) + 1) for place, begin in begins.items()}
    with closing(bus.reader([topic], start)) as reader:
        following = next(read_to_end(reader, ends), None)
        return start if following else reader.positions()


def account(tally: dict[tuple[str, str], int]) -> Account:
    """Sum the store's tallies.

    A letter ends a text only where nothing else counts it: the store's own letters of raw and cleaned texts don't,
    since those texts go on without it. What couldn't be counted as taken before it died counts with its letter.
    """
    letters = {(t, reason): n for (t, reason), n in tally.items() if t.endswith(topics.DEAD_SUFFIX)}
    dead: Counter[str] = Counter()
    for (topic, reason), n in letters.items():
        if reason.partition(":")[0] in ENDS.get(topic, ()):
            dead[reason] += n
    refused = {reason: n for (topic, reason), n in tally.items() if topic == topics.REJECTED}
    duplicates = sum(n for reason, n in refused.items() if reason.startswith("duplicate"))
    untaken = sum(
        n for (t, why), n in letters.items() if t == topics.dead(topics.RAW) and why.startswith(("ingest:", "store:"))
    )
    return Account(
        taken=tally.get((topics.RAW, ""), 0) + untaken,
        scored=tally.get((topics.PREDICTIONS, ""), 0),
        rejected=sum(refused.values()) - duplicates,
        duplicate=duplicates,
        dead=dead.total(),
        reasons=refused | dead,
    )


def wait_idle(settings: Settings, progress: Callable[[Status], None], timeout: float = 3600.0) -> Status:
    """Wait until every text is accounted for, and store and monitor have seen it all.

    Raises:
        TimeoutError: it takes longer than `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        status = collect(settings)
        progress(status)
        if status.waiting <= 0 and all(row.lag <= 0 for row in status.lags if row.group in PIPELINE):
            return status
        time.sleep(0.2)
    raise TimeoutError(f"texts are still under way after {timeout:.0f} s; `tickerloop status` shows where")
