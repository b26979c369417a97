"""The keys that hold, read once a second by a thread of its own: no request waits for the database to know its key."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Final

from psycopg2.extensions import connection as Connection

from services import keys
from services.gateway.problems import unavailable
from services.keys import Key, Stored
from services.runtime import now_ms
from services.stream.database import Connect, transaction
from services.stream.errors import Fatal, Transient

READ_S: Final = 1.0
STALE_S: Final = 5.0
"""What was read longer ago is not trusted: nobody is let in by it. So long, at most, a revoked key goes on to hold."""
USED_MS: Final = 60_000
"""How exactly the last use of a key is kept."""

log = logging.getLogger(__name__)


class Keyring:
    """`local` tells whether the gateway serves this machine alone: only then nobody needs a key while there is none."""

    def __init__(self, connect: Connect, local: bool) -> None:
        self._connect, self._local = connect, local
        self._stored: Mapping[str, Stored] = {}
        self._read_at = 0.0
        self._used: set[str] = set()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def read(self) -> bool:
        """Read the keys now; whether there are any.

        Raises:
            Transient: the database is away.
        """
        with closing(self._connect()) as connection:
            self._read(connection)
        return bool(self._stored)

    def start(self, fatal: Callable[[Fatal], None], told: Callable[[], object]) -> None:
        """Start reading; on the thread `told` is called after each time, `fatal` when it can't go on."""
        self._thread = threading.Thread(target=self._run, args=(fatal, told), name="keyring", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; one that hangs in the database ends with the process."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=STALE_S)

    @property
    def needed(self) -> bool:
        """Whether requests need a key.

        Raises:
            Problem: 503, the keys weren't read lately.
        """
        if time.monotonic() - self._read_at > STALE_S:
            raise unavailable("the database is away, and who may do what is known there alone; try again")
        return bool(self._stored) or not self._local

    def find(self, given: str) -> Key | None:
        """The key that `given` is, if it holds now; that it was used is kept. Call `needed` first."""
        key = keys.found(self._stored, given)
        if key is None or key.expired(now_ms()):
            return None
        self._used.add(key.id)
        return key

    def holds(self, key: Key | None) -> bool:
        """Whether what was let in by `key`, or without one, would be let in again, by what was read last."""
        if key is None:
            return not self._stored and self._local
        return key.id in self._stored and not key.expired(now_ms())

    def _run(self, fatal: Callable[[Fatal], None], told: Callable[[], object]) -> None:
        while not self._stop.is_set():
            try:
                with closing(self._connect()) as connection:
                    while not self._stop.is_set():
                        self._read(connection)
                        told()
                        self._stop.wait(READ_S)
            except Transient as error:
                log.warning("the API keys can't be read: %s", error)
                self._stop.wait(READ_S)
            except Exception as defect:  # a silent thread would have the gateway refuse everyone, and say nothing
                log.exception("the API keys can't be read")
                fatal(Fatal(f"the API keys can't be read: {defect!r}"))
                return

    def _read(self, connection: Connection) -> None:
        began = time.monotonic()
        with transaction(connection), connection.cursor() as cursor:
            stored = keys.unrevoked(cursor)
            used, self._used = self._used, set()
            now = now_ms()
            if due := [i for i in used if i in stored and now - (stored[i].key.used or 0) > USED_MS]:
                keys.saw(cursor, due, now)
        self._stored, self._read_at = stored, began
