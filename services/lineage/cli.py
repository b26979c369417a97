"""`tickerloop lineage`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.settings import Settings
from services.stream.errors import Misconfigured, Rejected
from services.terminal import database, settings, show

if TYPE_CHECKING:
    from services.lineage.trace import Lineage, Seen

SHOWN_CHARS: Final = 60


@click.command()
@click.argument("prediction")
@click.option("--json", "as_json", is_flag=True, help="for scripts")
def lineage(prediction: str, as_json: bool) -> None:
    """Which feedback changed this PREDICTION (its id)?

    Shows the corrections that its model learned from, those nearest to its text first: who gave them and when; and what
    the model before said of the same text, as it was published, or by asking that model now. Near means: alike in the
    encoder's features, by their cosine. The model is opened in this process, which takes some seconds.

    \b
    Examples:
      tickerloop lineage 5d0cf1a2…
      curl http://127.0.0.1:8080/v1/predictions/5d0cf1a2…/lineage
    """
    from services.lineage.trace import ask, parents_answer, told

    chosen = settings()
    with database() as cursor:
        asked = ask(cursor, prediction)
    seen = _seen(chosen, asked.lineage.after.model, asked.texts)
    with database() as cursor:
        found = told(asked, seen, parents_answer(cursor, asked, seen, chosen.model_cache))
    if as_json:
        show(found)
    else:
        _print(found)


def _seen(chosen: Settings, version: str, texts: list[str]) -> Seen | str:
    """Features of `texts` by the model `version`; a string says why there are none."""
    from services.lineage.trace import ERASED, Seen
    from services.score.engine import open_engine
    from services.trainer import registry

    if not texts:
        return ERASED
    try:
        with database() as cursor:
            folder = registry.fetch(cursor, version, chosen.model_cache)
        engine = open_engine(folder, device=chosen.device, threads=chosen.threads, cache=chosen.model_cache)
        return Seen(engine.runtime.key, engine.embed(texts))
    except (Rejected, Misconfigured) as error:
        return f"its model {version} can't be opened here: {error}"


def _print(found: Lineage) -> None:
    console = Console()
    console.print(escape(found.text) if found.text is not None else "[dim]erased[/dim]")
    table = Table("version", "says", "negative", "neutral", "positive", "", box=None)
    for name, answer in (("before", found.before), ("after", found.after)):
        if answer is not None:
            shown = [f"{p:.3f}" for p in answer.probabilities]
            table.add_row(answer.model, answer.label, *shown, f"{name}, {answer.source}")
    if found.change is not None:
        table.add_row("", "change", *(f"{c:+.3f}" for c in found.change), "")
    console.print(table)
    learned = f"{found.after.model} learned from {found.learned:,} examples, {found.corrections:,} of them corrections"
    console.print(learned)
    table = Table("near", "corrected text", "was", "is", "by", "when", box=None)
    for one in found.nearest:
        when = datetime.fromtimestamp(one.given / 1000, UTC).strftime("%Y-%m-%d %H:%M")
        near = f"{one.similarity:.2f}" + (" own" if one.own else "")
        text = one.text if len(one.text) <= SHOWN_CHARS else one.text[: SHOWN_CHARS - 1] + "…"
        table.add_row(near, escape(text), one.predicted, one.label, escape(one.name or "erased"), when)
    console.print(table if found.nearest else "no correction to show")
    for note in found.notes:
        console.print(f"[yellow]{escape(note)}[/yellow]")
