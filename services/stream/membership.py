"""Who owns which partition of the embedded log.

A member holds its slot and its partitions by advisory locks of its work session, so they are free the moment the
session ends. A lock alone doesn't fence: a stopped process may wake up and commit. So each new owner bumps the
partition's generation, and each commit compares it. A silent owner's backend is ended by whoever notices.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
import uuid
from collections.abc import Sequence
from typing import Final, NamedTuple

from psycopg2.extensions import connection as Connection

from services.stream.bus import TopicPartition
from services.stream.database import Connect, mapped, suppress_lost
from services.stream.errors import SlotTaken, Transient

BEAT_S: Final = 1.0
SESSION_TIMEOUT_S: Final = 6.0
"""A member silent for longer is ended; Kafka's recommended lower bound for sessions."""
MAX_POLL_INTERVAL_S: Final = 300.0
"""A loop that neither polls nor keeps for this long is taken for hung (Kafka's default)."""
SHARE_OUT_EVERY_S: Final = 0.25
SLOT_WAIT_S: Final = 3.0
"""A killed predecessor's backend notices within `client_connection_check_interval`, 1 s."""


class Lease(NamedTuple):
    """A partition owned now: where it stands and under which generation it may be moved."""

    position: int
    generation: int
    mark: str


def lock_key(*parts: object) -> int:
    """Signed 64-bit advisory lock key."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


class Member:
    """One group member's session: the work connection, its slot, its leases, and a thread that beats for it."""

    def __init__(self, connect: Connect, group: str, places: Sequence[TopicPartition], slot: int) -> None:
        """Join at once.

        Raises:
            SlotTaken: a live process holds the slot.
            Transient: the server is away.
        """
        self.group, self.slot, self.places = group, slot, tuple(places)
        self.leases: dict[TopicPartition, Lease] = {}
        self._token = uuid.uuid4().hex
        self._connect = connect
        self._stop = threading.Event()
        self._active = time.monotonic()
        self._shared_at = 0.0
        self._evicted = False
        self.connection: Connection = connect()
        try:
            self.connection.autocommit = True
            self._take_slot()
        except BaseException:
            self.connection.close()
            raise
        self._beater = threading.Thread(target=self._beat, name=f"beat-{group}-{slot}", daemon=True)
        self._beater.start()

    def _take_slot(self) -> None:
        deadline = time.monotonic() + SLOT_WAIT_S
        with mapped(), self.connection.cursor() as cursor:
            while True:
                self._end_silent(self.connection)
                cursor.execute("SELECT pg_try_advisory_lock(%s)", (lock_key("slot", self.group, self.slot),))
                if cursor.fetchone() == (True,):
                    break
                if time.monotonic() > deadline:
                    raise SlotTaken(
                        f"another live process runs as slot {self.slot} of {self.group}; "
                        "stop it or start this one with another --slot"
                    )
                time.sleep(0.05)
            cursor.execute(
                "INSERT INTO log.member (grp, slot, token, work_pid) VALUES (%s, %s, %s, pg_backend_pid())"
                " ON CONFLICT (grp, slot) DO UPDATE SET token = excluded.token, work_pid = excluded.work_pid,"
                " beat = clock_timestamp()",
                (self.group, self.slot, self._token),
            )

    def _end_silent(self, connection: Connection) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "WITH silent AS (DELETE FROM log.member WHERE grp = %s"
                " AND beat < clock_timestamp() - make_interval(secs => %s) RETURNING work_pid)"
                " SELECT pg_terminate_backend(a.pid) FROM silent s JOIN pg_stat_activity a ON a.pid = s.work_pid"
                " WHERE a.pid <> pg_backend_pid() AND a.application_name = current_setting('application_name')",
                (self.group, SESSION_TIMEOUT_S),
            )

    def _beat(self) -> None:
        connection: Connection | None = None
        while not self._stop.wait(BEAT_S):
            if time.monotonic() - self._active > MAX_POLL_INTERVAL_S:
                continue
            try:
                if connection is None:
                    connection = self._connect()
                    connection.autocommit = True
                with mapped(), connection.cursor() as cursor:
                    cursor.execute(
                        "UPDATE log.member SET beat = clock_timestamp() WHERE grp = %s AND slot = %s AND token = %s",
                        (self.group, self.slot, self._token),
                    )
                    self._evicted = self._evicted or cursor.rowcount == 0
                    self._end_silent(connection)
            except Transient:
                connection = None
        if connection is not None:
            with suppress_lost():
                connection.close()

    def active(self) -> None:
        """The loop is alive, though it may not poll for a while."""
        self._active = time.monotonic()

    def share_out(self) -> None:
        """Let go of partitions above this member's share and take free ones below it. Call between transactions only.

        Raises:
            Transient: this member was ended by another, or the server is away; join again.
        """
        self.active()
        if self._evicted:
            raise Transient(f"slot {self.slot} of {self.group} was silent for too long and has been replaced")
        if time.monotonic() - self._shared_at < SHARE_OUT_EVERY_S:
            return
        self._shared_at = time.monotonic()
        with mapped(), self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM log.member"
                " WHERE grp = %s AND beat > clock_timestamp() - make_interval(secs => %s)",
                (self.group, SESSION_TIMEOUT_S),
            )
            (members,) = cursor.fetchone() or (1,)
        self._let_go_of_moved()
        share = -(-len(self.places) // max(1, members))
        for place in sorted(self.leases)[share:]:
            self.release(place)
        start = self.slot % len(self.places)
        for place in self.places[start:] + self.places[:start]:
            if len(self.leases) >= share:
                return
            if place not in self.leases:
                self._acquire(place)

    def _let_go_of_moved(self) -> None:
        """Partitions that a `seek` moved under us: a commit would find out, but where nothing comes there is none."""
        with mapped(), self.connection.cursor() as cursor:
            cursor.execute("SELECT topic, partition, generation FROM log.position WHERE grp = %s", (self.group,))
            now = {TopicPartition(topic, partition): generation for topic, partition, generation in cursor.fetchall()}
        for place in [place for place, lease in self.leases.items() if now.get(place) != lease.generation]:
            self.release(place)

    def _acquire(self, place: TopicPartition) -> None:
        with mapped(), self.connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", (lock_key("partition", self.group, *place),))
            if cursor.fetchone() != (True,):
                return
            # A statement of its own: a snapshot taken together with the lock would predate the last owner's commit.
            cursor.execute(
                "INSERT INTO log.position AS p (grp, topic, partition, position, generation)"
                " SELECT %s, h.topic, h.partition, h.oldest, 1 FROM log.head h WHERE h.topic = %s AND h.partition = %s"
                " ON CONFLICT (grp, topic, partition) DO UPDATE SET generation = p.generation + 1"
                " RETURNING position, generation, mark",
                (self.group, *place),
            )
            self.leases[place] = Lease(*(cursor.fetchone() or (0, 1, "")))

    def release(self, place: TopicPartition) -> None:
        """Let a partition go, so that another member, or this one afresh, can take it."""
        del self.leases[place]
        with mapped(), self.connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s)", (lock_key("partition", self.group, *place),))

    def close(self) -> None:
        """Leave: the row goes first, so that the others' shares grow at once."""
        self._stop.set()
        with contextlib.suppress(Transient), mapped(), self.connection.cursor() as cursor:
            cursor.execute(
                "DELETE FROM log.member WHERE grp = %s AND slot = %s AND token = %s",
                (self.group, self.slot, self._token),
            )
        with suppress_lost():
            self.connection.close()
        self._beater.join(timeout=BEAT_S)
