"""What commands stand on: where they write, whose settings they take, a cursor in their database, decisions about
models, JSON."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from psycopg2.extensions import cursor as Cursor
from rich.console import Console

from services.settings import PREFIX, Settings, from_environment

console = Console()
notes = Console(stderr=True)

if TYPE_CHECKING:
    from services.trainer.promotion import Promoter


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


@contextmanager
def promoter() -> Iterator[Promoter]:
    """For one decision about models."""
    from services.trainer.promotion import Promoter

    chosen = settings()
    with closing(chosen.open_bus("models")) as bus:
        yield Promoter(bus, chosen.connector("models"), chosen.prepare_s)


def decision(command: Callable[..., None]) -> Callable[..., None]:
    """What every decision about models is given."""
    for option in (
        click.option(
            "--expected-epoch", type=int, default=None, help="refuse if the champion changed since you looked"
        ),
        click.option(
            "--actor", default=lambda: os.environ.get("USER", "operator"), callback=_person, help="who decides"
        ),
        click.option("--reason", required=True, help="kept in the ledger"),
    ):
        command = option(command)
    return command


def _person(_: click.Context, __: click.Parameter, actor: str) -> str:
    from services.trainer.standing import person

    return person(actor)


def show(value: Any) -> None:
    """JSON on standard output, for a script to read."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))
