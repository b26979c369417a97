"""`tickerloop keys`: made, listed and revoked in the database; the gateway reads them there."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services import keys as keys_
from services.keys import GRANTS, Key, Role
from services.terminal import database, show

HOURS: Final = {"h": 1, "d": 24, "w": 7 * 24}
MAX_NAME: Final = 200
"""As long as an annotator's name may be."""


@click.group()
def keys() -> None:
    """API keys: who may speak to the gateway, and what they may do there.

    \b
    Roles:
      source       sends texts (POST /v1/texts), for crawlers and webhooks; reads nothing
      reader       reads predictions, the stream, models; scores and explains texts
      annotator    also gives feedback, under the key's name
      operator     all of that, and promotes and rolls back, under the key's name

    While there is no key the gateway serves this machine alone, asks for none, and takes names as they are given. With
    the first key everyone needs one. A key travels in a header (on the page, it is asked for):

    \b
      curl -H "Authorization: Bearer tl_…" http://127.0.0.1:8080/v1/predictions

    A new key holds, and a revoked one no longer does, within a second, and at most five.
    """


def _name(_: click.Context, __: click.Parameter, value: str) -> str:
    if not value.strip() or len(value) > MAX_NAME or any(unicodedata.category(c)[0] == "C" for c in value):
        raise click.BadParameter(f"a name has 1 to {MAX_NAME} characters, all of them visible")
    return value


def _span(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    """Milliseconds."""
    if value is None:
        return None
    given = re.fullmatch(r"([1-9][0-9]{0,3})([hdw])", value)
    if given is None:
        raise click.BadParameter(f"takes a number of hours, days or weeks, such as 12h, 90d or 52w, not {value!r}")
    return int(given[1]) * HOURS[given[2]] * 3_600_000


@keys.command("create")
@click.argument("name", callback=_name)
@click.option("--role", required=True, type=click.Choice(tuple(GRANTS)), help="what it may do: tickerloop keys --help")
@click.option("--expires", metavar="90d", callback=_span, help="after so many hours, days or weeks; default: never")
@click.option("--json", "as_json", is_flag=True, help="for scripts")
def create(name: str, role: Role, expires: int | None, as_json: bool) -> None:
    """Make a key for NAME and print it, this once: only its hash is kept.

    NAME is whose words the key's feedback and promotions are. It may have several keys, so that a new one can be handed
    out before the old one is revoked.

    \b
    Examples:
      tickerloop keys create ana --role annotator --expires 90d
      tickerloop keys create my-crawler --role source
      KEY=$(tickerloop keys create me --role operator)
    """
    now = _now()
    with database() as cursor:
        key, whole = keys_.create(cursor, name, role, now, None if expires is None else now + expires)
    if as_json:
        show(msgspec.to_builtins(key) | {"key": whole})
        return
    click.echo(whole)
    click.echo(f"the key {key.id} of {name}, {role}; it is not shown again", err=True)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="for scripts")
def list_(as_json: bool) -> None:
    """All keys, oldest first, revoked ones too; never a secret."""
    with database() as cursor:
        found = keys_.every(cursor)
    if as_json:
        show(found)
        return
    now = _now()
    table = Table("id", "name", "role", "state", "created", "expires", "last used", box=None)
    for key in found:
        times = (_day(key.created), _day(key.expires), _day(key.used))
        table.add_row(key.id, escape(key.name), key.role, _state(key, now), *times)
    Console().print(table if found else "no keys: the gateway serves this machine alone")


@keys.command("revoke")
@click.argument("key_id", metavar="ID")
def revoke(key_id: str) -> None:
    """End the key ID for good; gateways refuse it, and end its streams, within a second, and at most five."""
    with database() as cursor:
        key = keys_.revoke(cursor, key_id, _now())
        left = keys_.unrevoked(cursor)
    click.echo(f"the key {key.id} of {key.name} is revoked")
    if not left:
        click.echo("no key is left: a gateway on loopback asks for none now, any other refuses everyone", err=True)


def _state(key: Key, now: int) -> str:
    return "revoked" if key.revoked is not None else "expired" if key.expired(now) else "holds"


def _day(at: int | None) -> str:
    return "" if at is None else datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _now() -> int:
    from services.runtime import now_ms

    return now_ms()
