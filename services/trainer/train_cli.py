"""`tickerloop train`: now, why or why not, and on what."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import get_args

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.settings import Method
from services.stream.events import LABELS
from services.terminal import database, notes, settings, show


@click.group(invoke_without_command=True)
@click.option("--recipe", type=click.Choice(["loop", "bundled"]), default="loop", show_default=True)
@click.option("--data", type=click.Path(exists=True, file_okay=False), help="bundled: folder of labelled sets")
@click.option("--encoder", metavar="NAME", help="loop: another encoder, a folder or a model that Hugging Face has")
@click.option(
    "--base", type=click.Path(exists=True, dir_okay=False), help="loop: labelled texts of yours to replay (CSV, JSONL)"
)
@click.option("--method", type=click.Choice(get_args(Method)), help="loop: what changes; default: TICKERLOOP_METHOD")
@click.option("--search", "trials", type=click.IntRange(2, 36), metavar="N", help="loop: first try N ways of tuning")
@click.option("--dry-run", is_flag=True, help="loop: up to the verdict, and no further")
@click.pass_context
def train(
    context: click.Context,
    recipe: str,
    data: str | None,
    encoder: str | None,
    base: str | None,
    method: Method | None,
    trials: int | None,
    dry_run: bool,
) -> None:
    """Train now: `loop` learns from the corrections and lets the gate decide, `bundled` makes the shipped model.

    What passes the gate is promoted by the trainer once it did well as a shadow (`tickerloop models standing`). After a
    --dry-run nothing comes of the verdict. It is in the ledger all the same, and counts as a look at the held-out
    texts, since it tells what they say: whoever tries until one passes is to need more evidence.

    --method head fits the head alone, in seconds; lora tunes the champion's encoder too, by a small change to each of
    its matrices; full tunes all of its weights. These two take minutes, at low priority, and `tickerloop status` tells
    how far they are. Killed and started again on the same corrections, they go on from their last checkpoint.
    --search tries N ways first, by successive halving over rate, rank and replay, and takes what is best on texts that
    it sets apart from those to be learned; edited copies of the texts are learned, too, where that shows a gain. It
    takes about as long as N runs.

    With --encoder, a challenger is made on another encoder (safetensors, with a fast tokenizer): from the corrections
    so far, the shipped anchor set and the champion's own answers. `tickerloop models promote` puts it in service where
    the gate had too little to judge it by, as in a language that nobody has corrected yet.

    With --base, labelled texts of yours are replayed beside the shipped anchor set, so that what they stand for isn't
    forgotten: columns (or keys) text and label, which is negative, neutral or positive; at most 5,000 rows.
    """
    if context.invoked_subcommand:
        return
    if recipe == "bundled":
        if data is None:
            raise click.UsageError("--recipe bundled needs --data DIR")
        import_module("services.trainer.recipe").main(Path(data))
        return
    from services.trainer import base as bases
    from services.trainer import evaluations, observed, triggers
    from services.trainer.beside import low_priority
    from services.trainer.run import train_once

    low_priority()

    def say(line: str) -> None:
        notes.print(line, highlight=False)

    replayed = bases.read(base) if base else bases.NO_BASE
    with database() as cursor:
        evaluations.record(cursor, triggers.by_command(observed.read(cursor)))
    outcome = train_once(
        settings(),
        "command",
        say,
        encoder=encoder,
        base=replayed,
        method=method,
        trials=trials or 0,
        dry_run=dry_run,
    )
    show(outcome)


@train.command()
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


@train.command()
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
