"""`tickerloop erase`."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import Console
from rich.markup import escape

from services.terminal import settings, show

if TYPE_CHECKING:
    from services.erasure.request import Erasure

notes: Final = Console(stderr=True)


@click.group()
def erase() -> None:
    """Forget a text or a person, on request.

    A text goes with all its copies: from PostgreSQL and Valkey at once, from the embedded log at once, from Kafka when
    the retention of the topics with texts is over (TICKERLOOP_TEXT_RETENTION_S). If it comes again it is refused. Of an
    annotator the name, the keys and the comments go; the labels stay, nobody's, and teach no more. What a model said
    and learned stays on record, by ids. Each erasure is written down: what, when, by whom, no content.

    \b
    Examples:
      tickerloop erase text 5d0cf1a2… --dry-run
      tickerloop erase text --source my-crawler --external-id https://example.com/nordwind-q3
      tickerloop erase annotator ana --retrain
      tickerloop erase scrub
    """


def request(command: Callable[..., None]) -> Callable[..., None]:
    """What every erasure is given."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="for scripts"),
        click.option("--actor", default=lambda: os.environ.get("USER", "operator"), help="who erases; kept on record"),
        click.option("--retrain", is_flag=True, help="have the trainer make a model that never learned from it"),
        click.option("--dry-run", "dry", is_flag=True, help="only show what would go"),
    ):
        command = option(command)
    return command


@erase.command("text")
@click.argument("text_id", required=False)
@click.option("--source", help="of the text, together with --external-id instead of TEXT_ID")
@click.option("--external-id", help="the source's own id of it")
@request
def text(text_id: str | None, source: str | None, external_id: str | None, as_json: bool, **how: Any) -> None:
    """Erase the text TEXT_ID, or the one that a source calls by an id of its own, and its copies."""
    from services.erasure.request import Request
    from services.erasure.texts import erase_text, id_of

    named = source is not None and external_id is not None
    if (text_id is None) != named or (source is None) != (external_id is None):
        raise click.UsageError("name the text by TEXT_ID, or by --source and --external-id")
    wanted = text_id or id_of(str(source), str(external_id))
    _tell(erase_text(settings(), wanted, Request(**how)), as_json, how["dry"])


@erase.command("annotator")
@click.argument("name")
@request
def annotator(name: str, as_json: bool, **how: Any) -> None:
    """Erase who NAME is: the name, the keys, the comments."""
    from services.erasure.people import erase_annotator
    from services.erasure.request import Request

    _tell(erase_annotator(settings(), name, Request(**how)), as_json, how["dry"])


@erase.command("scrub")
def scrub() -> None:
    """Rewrite PostgreSQL's files, so that nothing deleted is left in them.

    Else bytes of what was erased lie in tables' files and in the write-ahead log until something is written over them.
    Each table is locked while it is rewritten: the services wait, and go on. It takes a superuser, as the embedded
    database's user is. Backups, replicas and archives of a server of yours are yours to see to.
    """
    from services.erasure.scrub import scrub as rewrite

    rewrite(settings().connector("scrub"), lambda line: notes.print(f"[dim]{escape(line)}[/dim]", highlight=False))
    click.echo("nothing that was deleted before is left in PostgreSQL's files")


def _tell(found: Erasure, as_json: bool, dry: bool) -> None:
    if as_json:
        show(found)
        return
    would = "would go" if dry else "gone"
    click.echo(f"{found.kind} {', '.join(found.subjects) or '(keys only)'}")
    for name, count in found.rows.items():
        click.echo(f"  {count:,} {would} from {name}")
    for topic, count in found.records.items():
        click.echo(f"  {count:,} records in {topic}")
    if found.gone_by is not None:
        when = datetime.fromtimestamp(found.gone_by / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        click.echo(f"  Kafka keeps its records until {when}, or a log segment longer")
    if found.versions:
        click.echo(f"models that learned from it: {', '.join(found.versions)}")
    if found.inherited:
        click.echo(f"models that were trained on from these: {', '.join(found.inherited)}")
    if found.retrain:
        click.echo("the trainer makes a model without it; the gate, or `tickerloop models promote`, puts it in service")
    for note in found.notes:
        notes.print(f"[yellow]not reached:[/yellow] {escape(note)}", highlight=False, soft_wrap=True)
