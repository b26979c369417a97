"""`tickerloop train why` and `train manifest`."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.stream.events import LABELS
from services.terminal import database, show


@click.command()
@click.option(
    "--limit", default=10, show_default=True, type=click.IntRange(1, 1_000), help="how many, the newest first"
)
@click.option("--json", "as_json", is_flag=True, help="for scripts")
def why(limit: int, as_json: bool) -> None:
    """Why the trainer trains, or why not: its last looks at the triggers, with their numbers.

    A run is asked for by enough new labels, by time, by drift of the stream, or by a live accuracy that is too low. A
    run under way, the cool-down, and labels that can't matter yet stand against it. `tickerloop train` trains all the
    same.
    """
    from services.trainer import evaluations

    with database() as cursor:
        found = evaluations.latest(cursor, limit)
    if as_json:
        show(found)
        return
    console = Console()
    for one in found:
        when = datetime.fromtimestamp(one.at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        colour = "green" if one.train else "default"
        console.print(f"[dim]{when}Z[/dim] [{colour}]{escape(one.reason)}[/{colour}]", highlight=False)
    if not found:
        console.print("the trainer has not looked yet; is it running? `tickerloop status` shows it", highlight=False)


@click.command()
@click.argument("name", metavar="RUN|HASH")
@click.option("--json", "as_json", is_flag=True, help="every entry, for scripts")
def manifest(name: str, as_json: bool) -> None:
    """What a run learned from and what measured it, as ids: RUN is its number, HASH the `dataset` of a model's card.

    With --json each entry is [role, id, text id, label, weight, ids of the feedback that made the label].
    """
    from services.trainer import manifest as manifests

    with database() as cursor:
        found = manifests.load(cursor, name)
    if as_json:
        show(found)
        return
    console = Console()
    console.print(f"dataset [bold]{found.hash}[/bold]", highlight=False)
    console.print(f"runs {_listed(found.runs)}; models {_listed(found.models)}", highlight=False)
    table = Table("role", "texts", "weight", *LABELS, box=None)
    for role in manifests.ROLES:
        entries = [entry for entry in found.manifest.entries if entry.role == role]
        counts = Counter(entry.label for entry in entries)
        weight = f"{sum(entry.weight for entry in entries):,.1f}"
        table.add_row(role, f"{len(entries):,}", weight, *(f"{counts[label]:,}" for label in LABELS))
    console.print(table)
    for file in found.manifest.base:
        console.print(f"replayed: {escape(file.name)} (SHA-256 {file.sha256})", highlight=False)
    for reason, n in found.manifest.left_out.items():
        console.print(f"left out: {n:,}, {reason}", highlight=False)


def _listed(found: list[int] | list[str]) -> str:
    return ", ".join(map(str, found)) or "none"
