"""Where the embedded database lies, and what may be lost without losing it."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from services.stream.errors import Misconfigured
from services.supervisor import servers
from services.supervisor.servers import PostgresServer, discard

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root's database may have to lie elsewhere")


@pytest.fixture
def closed(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder that PostgreSQL's own user can't pass, so that its database lies elsewhere."""
    tmp_path.chmod(0o700)
    monkeypatch.setattr(servers, "SYSTEM_FOLDER", folder / "system")
    return tmp_path / "var"


def _asked(data: Path, statement: str) -> list[tuple[object, ...]]:
    server = PostgresServer(data / "postgres", data / "log")
    server.start()
    try:
        with closing(psycopg2.connect(server.url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()
    finally:
        server.stop()


def test_a_database_elsewhere_is_found_again_without_the_project_folder(closed: Path) -> None:
    assert _asked(closed, "CREATE TABLE kept AS SELECT 7 AS n; SELECT n FROM kept") == [(7,)]
    shutil.rmtree(closed)
    assert _asked(closed, "SELECT n FROM kept") == [(7,)]
    (secret,) = servers.SYSTEM_FOLDER.glob("data-*.password")
    assert secret.stat().st_mode & 0o777 == 0o600
    discard(closed / "postgres")
    assert _asked(closed, "SELECT to_regclass('kept')") == [(None,)]
    secret.unlink()
    with pytest.raises(Misconfigured, match=r"password is missing"):
        PostgresServer(closed / "postgres", closed / "log")
