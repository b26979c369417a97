"""Real servers for the tests: embedded PostgreSQL and Valkey, one of each per test session, one database per test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from open_folder import open_folder

from services.stream.database import migrate
from services.supervisor.servers import PostgresServer, ValkeyServer

_numbers = itertools.count()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """For one test's servers; their logs stay in `tmp_path`."""
    with open_folder(tmp_path) as found:
        yield found


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    with open_folder(tmp_path_factory.mktemp("postgres")) as folder:
        server = PostgresServer(folder / "data", folder / "logs")
        server.start()
        yield server
        server.stop()


@pytest.fixture(scope="session")
def _template(postgres: PostgresServer) -> str:
    """A migrated database to copy: far quicker than migrating one per test."""
    url = _create(postgres, "template_migrated")
    migrate(url)
    return "template_migrated"


def _create(postgres: PostgresServer, name: str, template: str = "template1") -> str:
    base = postgres.url.rsplit("/", 1)[0]
    with closing(psycopg2.connect(base + "/postgres")) as connection:
        connection.autocommit = True
        connection.cursor().execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    return f"{base}/{name}"


@pytest.fixture
def database(postgres: PostgresServer, _template: str) -> str:
    """URL of a fresh, migrated database."""
    return _create(postgres, f"test_{next(_numbers)}", _template)


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def valkey_url(valkey: ValkeyServer) -> str:
    """URL of an empty Valkey."""
    import redis

    with closing(redis.Redis.from_url(valkey.url)) as client:
        client.flushall()
    return valkey.url
