"""`tickerloop labels`: texts to Label Studio, and what people said there back into the loop."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from psycopg2.extensions import cursor as Cursor

from services.stream.events import LABELS
from services.terminal import database, settings, show

if TYPE_CHECKING:
    from services.gateway.queries import Filter, PredictionView
    from services.review.candidates import Wanted

PAGE: Final = 1_000
"""Predictions that are read at a time."""


@click.group()
def labels() -> None:
    """Label with Label Studio.

    \b
    A project there, once: its labeling configuration is
      tickerloop labels config
    What a person's word would help most, into its import:
      tickerloop labels export --limit 300 > tasks.json
    And what people said, from its export in the format JSON:
      tickerloop labels import export.json --annotator ana
    """


@labels.command("config")
def config_() -> None:
    """Print the labeling configuration, for a project's settings in Label Studio."""
    from services.labelstudio import config

    click.echo(config())


@labels.command("export")
@click.option(
    "--format", type=click.Choice(["label-studio"]), default="label-studio", show_default=True, expose_value=False
)
@click.option("--limit", default=200, show_default=True, type=click.IntRange(1, 250_000), help="most tasks")
@click.option("--ticker", help="only texts that mention it")
@click.option("--language", help="only texts in it, e.g. en; of the queue")
@click.option("--all", "everything", is_flag=True, help="the newest predictions, instead of the review queue")
@click.option("--source", help="with --all: only from there")
@click.option("--label", type=click.Choice(LABELS), help="with --all: only what the model calls so")
def export(
    limit: int, ticker: str | None, language: str | None, everything: bool, source: str | None,
    label: str | None,
) -> None:  # fmt: skip
    """Write tasks with the model's answers as JSON to standard output, in the order of the review queue.

    The queue mixes what the model is unsure of, what people see differently, and texts drawn at random to measure by;
    it does not wait for what it has exported, so import before you export again.
    """
    if everything and language:
        raise click.UsageError("--language chooses within the review queue; it can't go with --all")
    if not everything and (source or label):
        raise click.UsageError("--source and --label choose among all predictions: add --all")
    from services.gateway.queries import Filter
    from services.labelstudio import task
    from services.review.candidates import Wanted

    with database() as cursor:
        chosen: Iterator[tuple[PredictionView, bool]]
        if everything:
            chosen = ((view, False) for view in _newest(cursor, Filter(ticker=ticker, source=source, label=label)))
        else:
            chosen = _queue(cursor, Wanted(ticker, language), limit)
        tasks = [task(view, sampled) for view, sampled in islice(chosen, limit)]
    show(tasks)


def _newest(cursor: Cursor, wanted: Filter) -> Iterator[PredictionView]:
    from services.gateway import queries

    while found := queries.predictions(cursor, wanted, PAGE):
        yield from (view for view in found if view.text is not None)
        wanted = wanted._replace(before=(found[-1].event_time, found[-1].prediction_id))


def _queue(cursor: Cursor, wanted: Wanted, limit: int) -> Iterator[tuple[PredictionView, bool]]:
    from random import SystemRandom

    from services.gateway import queries
    from services.review import candidates, ranking
    from services.runtime import now_ms

    found = candidates.read(cursor, "", wanted, now_ms())
    picks = ranking.queue(found, ranking.uncertain(found), limit, SystemRandom())
    views = queries.predictions_named(cursor, [pick.candidate.prediction_id for pick in picks])
    for pick in picks:
        if (view := views.get(pick.candidate.prediction_id)) is not None and view.text is not None:
            yield view, pick.drawn


def _who(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    parts = [part.rpartition("=") for part in given]
    if not all(name and known for known, _, name in parts):
        raise click.BadParameter("takes WHO=NAME, e.g. ana@desk.example=ana")
    return {known: name for known, _, name in parts}


@labels.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--annotator", metavar="NAME", help="whose words they are")
@click.option("--who", multiple=True, metavar="WHO=NAME", callback=_who, help="whose those of an email or a number are")
@click.option("--json", "as_json", is_flag=True, help="for scripts")
def import_(file: Path, annotator: str | None, who: dict[str, str], as_json: bool) -> None:
    """Take the annotations of FILE, an export from Label Studio in the format JSON, as feedback.

    Each becomes a confirmation or a correction of the prediction that its task was exported with. The same annotation
    counts once, however often it is read; changed in Label Studio, it is a new word. What can't be taken is named, and
    the rest is taken all the same; exit 1 then.

    \b
    Examples:
      tickerloop labels import export.json --annotator ana
      tickerloop labels import export.json --who ana@desk.example=ana --who 14=bo
    """
    from services.labelstudio import Unfit, read
    from services.labelstudio.words import taken
    from services.stream import topics
    from services.stream.bus import Outgoing
    from services.stream.events import encode

    found = list(read(file.read_bytes()))
    unfit = [entry for entry in found if isinstance(entry, Unfit)]
    with database() as cursor:
        words, known, more = taken(cursor, [entry for entry in found if not isinstance(entry, Unfit)], annotator, who)
    with closing(settings().open_bus("labels")) as bus:
        bus.publish([Outgoing(topics.FEEDBACK, word.text_id.encode(), encode(word)) for word in words])
    unfit += more
    if as_json:
        show({"taken": len(words), "known": known, "refused": [entry._asdict() for entry in unfit]})
    else:
        for entry in unfit:
            click.echo(f"{entry.place}: {entry.why}", err=True)
        click.echo(f"{len(words):,} taken, {known:,} known before, {len(unfit):,} refused")
    sys.exit(bool(unfit))
