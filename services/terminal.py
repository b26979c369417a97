"""What every command stands on: whose settings it takes, a cursor in their database, JSON for scripts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
from psycopg2.extensions import cursor as Cursor

from services.settings import PREFIX, Settings, from_environment


def settings() -> Settings:
    """From the environment, or of the `up` that runs on the data folder."""
    from services.supervisor.up import running

    if os.environ.get(PREFIX + "DATABASE"):
        return from_environment()
    return running(Path(os.environ.get(PREFIX + "DATA", "var")))


@contextmanager
def database() -> Iterator[Cursor]:
    """A cursor in a transaction."""
    from services.stream.database import transaction

    with closing(settings().connector("cli")()) as connection, transaction(connection), connection.cursor() as cursor:
        yield cursor


def show(value: Any) -> None:
    """JSON on standard output, for a script to read."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))
