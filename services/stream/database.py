"""Connections to PostgreSQL, migrations, and the mapping of its errors into ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from typing import Final

import psycopg2
from psycopg2 import errorcodes
from psycopg2.extensions import connection as Connection

from services.stream.errors import Misconfigured, Transient

Connect = Callable[[], Connection]

CONNECT_TIMEOUT_S: Final = 5

UNANSWERED_MS: Final = 15_000
"""A connection whose packets aren't acknowledged for so long is lost; keepalives look only at idle ones."""

RETRY_CODES: Final = frozenset(
    {
        errorcodes.SERIALIZATION_FAILURE,
        errorcodes.DEADLOCK_DETECTED,
        errorcodes.LOCK_NOT_AVAILABLE,
        errorcodes.DISK_FULL,
        errorcodes.OUT_OF_MEMORY,
        errorcodes.TOO_MANY_CONNECTIONS,
        errorcodes.QUERY_CANCELED,
        errorcodes.IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
    }
)
"""SQLSTATEs that say nothing against the event: the same statement may succeed later."""


def connector(url: str, application: str) -> Connect:
    """A function that opens connections to `url` whose locks don't outlive a dead client.

    A backend inside a statement doesn't notice a killed client by itself: `client_connection_check_interval` makes it
    look, keepalives cover a lost host.
    """

    def connect() -> Connection:
        with mapped():
            return psycopg2.connect(
                url,
                application_name=application,
                connect_timeout=CONNECT_TIMEOUT_S,
                keepalives_idle=5,
                keepalives_interval=2,
                keepalives_count=3,
                tcp_user_timeout=UNANSWERED_MS,
                options="-c client_connection_check_interval=1000 -c synchronous_commit=on -c timezone=UTC",
            )

    return connect


@contextmanager
def mapped() -> Iterator[None]:
    """Turn lost connections, deadlocks and full disks into Transient; let the rest through as a defect of ours.

    Raises:
        Transient: see `RETRY_CODES`.
    """
    try:
        yield
    except psycopg2.Error as error:
        if is_transient(error):
            raise Transient(str(error).strip() or type(error).__name__) from error
        raise


def is_transient(error: psycopg2.Error) -> bool:
    """Whether the failure lies with the server or the moment, not with the statement's data."""
    if error.pgcode is None:
        return isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
    # Class 08: connection, 57P: operator intervention (shutdown, crash, terminated backend).
    return error.pgcode in RETRY_CODES or error.pgcode[:2] == "08" or error.pgcode[:3] == "57P"


def migrate(url: str) -> int:
    """Apply the migrations of `schemas/sql` that are missing, under a lock; the number applied.

    Raises:
        Misconfigured: a migration does not apply.
        Transient: the server is away.
    """
    from yoyo import get_backend, read_migrations  # imports sqlparse and more: only the starter pays for it

    scheme, _, rest = url.partition("://")
    del scheme
    with as_file(files("schemas") / "sql") as folder:
        migrations = read_migrations(str(folder))
        try:
            with mapped(), get_backend(f"postgresql://{rest}") as backend, backend.lock(timeout=60):
                missing = backend.to_apply(migrations)
                backend.apply_migrations(missing)
                return len(missing)
        except psycopg2.Error as error:
            raise Misconfigured(f"a migration of schemas/sql does not apply: {error}") from error


@contextmanager
def transaction(connection: Connection) -> Iterator[Connection]:
    """Commit on success, roll back on any exception, with errors mapped."""
    with mapped():
        try:
            yield connection
            connection.commit()
        except BaseException:
            if not connection.closed:
                with suppress_lost():
                    connection.rollback()
            raise


@contextmanager
def suppress_lost() -> Iterator[None]:
    """Ignore that a connection is already gone, where all that was wanted was to be rid of it."""
    try:
        yield
    except psycopg2.Error:
        return
