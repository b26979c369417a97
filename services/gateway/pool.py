"""A few threads with a connection each: where the gateway's queries run, off the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from services.stream.database import Connect, mapped, suppress_lost, transaction
from services.stream.errors import Transient

THREADS: Final = 4
STATEMENT_TIMEOUT: Final = "10s"
"""A reader's odd question must not hold a connection for minutes; it is told 503."""
PATIENCE_S: Final = 15.0
"""A server that hangs ends no statement; whoever waits for it, in line for a thread or on one, is told 503."""

T = TypeVar("T")


class Pool:
    """Runs short transactions."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="query")
        self._held = threading.local()
        self._connections: list[Connection] = []

    async def run(self, query: Callable[[Cursor], T]) -> T:
        """`query`'s answer. It may run twice: a connection that died while idle is replaced once.

        Raises:
            Transient: the database is away, or the query took too long.
        """
        running = asyncio.get_running_loop().run_in_executor(self._threads, self._run, query)
        try:
            return await asyncio.wait_for(running, PATIENCE_S)
        except TimeoutError:
            raise Transient(f"the database does not answer within {PATIENCE_S:.0f} s") from None

    def _run(self, query: Callable[[Cursor], T]) -> T:
        held: Connection | None = getattr(self._held, "connection", None)
        if held is not None and not held.closed:
            try:
                return self._once(held, query)
            except Transient:
                if not held.closed:
                    raise
        return self._once(self._opened(), query)

    def _once(self, connection: Connection, query: Callable[[Cursor], T]) -> T:
        with transaction(connection), connection.cursor() as cursor:
            return query(cursor)

    def _opened(self) -> Connection:
        connection = self._held.connection = self._connect()
        self._connections = [held for held in self._connections if not held.closed] + [connection]
        with mapped(), connection.cursor() as cursor:
            cursor.execute("SELECT set_config('statement_timeout', %s, false)", (STATEMENT_TIMEOUT,))
            connection.commit()
        return connection

    def close(self) -> None:
        """Wait for running queries and free the connections."""
        self._threads.shutdown(cancel_futures=True)
        for connection in self._connections:
            with suppress_lost():
                connection.close()
