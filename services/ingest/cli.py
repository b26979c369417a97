"""`tickerloop ingest`. Exit codes: 0 all files are on the bus, 1 not all, 130 stopped by Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import closing
from typing import Any, Final

import click
import msgspec
from rich.console import Console

from services.ingest.command import Options, Progress, Report, ingest_files
from services.ingest.fields import TEXT_NAMES, Wanted
from services.ingest.files import Format
from services.ingest.progress import Bar, Plain
from services.settings import Settings

EXIT_INCOMPLETE: Final = 1
EXIT_INTERRUPTED: Final = 130

_FORMATS: Final = ("csv", "jsonl", "parquet", "lines")


@click.command(epilog=f"Without --text-field the text is the first column of: {', '.join(TEXT_NAMES)}.")
@click.argument(
    "paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(exists=True, dir_okay=False, allow_dash=True)
)
@click.option("--text-field", default="", metavar="NAME", help="column or key that holds the text")
@click.option(
    "--id-field", default="", metavar="NAME", help="column or key that identifies a text; default: its content"
)
@click.option("--source", default="", metavar="NAME", help="who says it; default: the file's name")
@click.option("--rate", default=0.0, type=click.FloatRange(min=0), help="texts per second; default: as fast as it goes")
@click.option("--format", "kind", default=None, type=click.Choice(_FORMATS), help="default: by the file's name")
@click.option("--again", is_flag=True, help="read from the beginning, though it was read; repeats become duplicates")
@click.option("--wait", is_flag=True, help="wait until every text is scored, rejected or otherwise accounted for")
@click.option("--json", "as_json", is_flag=True, help="print the report as JSON, for scripts")
def ingest(
    paths: tuple[str, ...],
    text_field: str,
    id_field: str,
    source: str,
    rate: float,
    kind: Format | None,
    again: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Feed texts from files into the loop: CSV, JSON lines, Parquet or plain lines, gzipped or not; - reads stdin.

    \b
    Examples:
      tickerloop ingest headlines.csv                     which column is the text is guessed
      tickerloop ingest news.jsonl.gz --id-field guid     a text sent twice is known by its guid
      tickerloop ingest *.parquet --text-field body --source archive
      tickerloop ingest replay.csv --rate 20              20 texts per second, to watch it work
      tail -F wire.log | tickerloop ingest - --format lines --source wire

    Nothing enters twice: started again after Ctrl-C, a crash or a power cut, the same command goes on where it stopped;
    in a file that has grown, at its end. A line that can't be read is not lost: it goes to `texts.raw.dead` with the
    reason (`tickerloop dlq show texts.raw`).
    """
    settings: Settings = click.get_current_context().obj()
    notes = Console(stderr=True)
    progress: Progress = Bar(notes) if notes.is_terminal else Plain(notes)
    options = Options(Wanted(text_field, id_field), source, kind, rate, again)
    stop = _stop_on_signals()
    with closing(settings.open_bus("ingest")) as bus:
        report = ingest_files(bus, paths, options, progress, stop)
    result: dict[str, Any] = msgspec.to_builtins(report)
    _summarise(report, progress)
    if wait and not stop.is_set():
        result["account"] = _wait(settings, progress)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(result), indent=2))
    sys.exit(EXIT_INTERRUPTED if stop.is_set() else 0 if report.complete else EXIT_INCOMPLETE)


def _stop_on_signals() -> threading.Event:
    """Set by the first Ctrl-C or SIGTERM; the second Ctrl-C ends the process as usual, which loses nothing either."""
    stop = threading.Event()

    def heard(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGINT, heard)
    signal.signal(signal.SIGTERM, heard)
    return stop


def _summarise(report: Report, progress: Progress) -> None:
    progress.say(f"{report.texts:,} texts in {report.seconds:.1f} s from {len(report.files)} file(s)")
    if report.dead:
        progress.say(
            f"{report.dead:,} lines could not be read and lie in texts.raw.dead; `tickerloop dlq show texts.raw` shows"
            " each with the reason"
        )


def _wait(settings: Settings, progress: Progress) -> Any:
    from services.status import Status, wait_idle

    progress.begin("waiting for the loop")

    def show(status: Status) -> None:
        account = status.account
        progress.moved(account.taken - status.waiting, 0, 1 - status.waiting / max(1, account.taken))

    try:
        return msgspec.to_builtins(wait_idle(settings, show).account)
    except TimeoutError as error:
        raise click.ClickException(str(error)) from None
    finally:
        progress.end()
