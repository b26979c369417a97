"""Files → `texts.raw`, each text once: the place in the file moves in the transaction that publishes its texts."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import msgspec

from services.ingest.batches import Batch, Pace, batches, live
from services.ingest.cursor import begin, journal_name, moved, without_known
from services.ingest.fields import Wanted
from services.ingest.files import STDIN, Format, format_of, is_pipe, open_source, printable
from services.ingest.lines import Place
from services.ingest.writer import JournalWriter, Writer, retrying
from services.stream.bus import Bus
from services.stream.errors import Fenced, Misconfigured, Rejected, Transient

log = logging.getLogger(__name__)

State = Literal["done", "already", "stopped", "superseded", "failed"]


class Options(NamedTuple):
    """What the command line says; '' and None leave it to the file. `rate`: texts per second, 0 as fast as it goes."""

    wanted: Wanted = Wanted()
    source: str = ""
    kind: Format | None = None
    rate: float = 0.0
    again: bool = False


class FileReport(msgspec.Struct):
    """One file's outcome. `texts` and `dead` count this run only; `line` is the last line whose text is on the bus."""

    path: str
    state: State = "stopped"
    texts: int = 0
    dead: int = 0
    line: int = 0
    seconds: float = 0.0
    detail: str = ""


class Report(msgspec.Struct):
    """What a run did."""

    files: list[FileReport]
    texts: int
    dead: int
    seconds: float
    complete: bool
    """Whether every file is wholly on the bus."""


class Progress(Protocol):
    """Shows a run to a person."""

    def begin(self, path: str) -> None:
        """A file is opened."""

    def moved(self, texts: int, dead: int, fraction: float | None) -> None:
        """So much is published; `fraction` of the file lies behind, where that can be known."""

    def say(self, line: str) -> None:
        """Something to read."""

    def end(self) -> None:
        """The file is closed."""


def ingest_files(bus: Bus, paths: Sequence[str], options: Options, progress: Progress, stop: threading.Event) -> Report:
    """Publish the files, one after the other. `stop` ends the run after the batch in hand.

    A file that can't be read doesn't keep the others from being read; its report says why.
    """
    started = time.monotonic()
    files = [_Run(bus, path, options, progress, stop).report() for path in paths if not stop.is_set()]
    return Report(
        files,
        sum(file.texts for file in files),
        sum(file.dead for file in files),
        time.monotonic() - started,
        len(files) == len(paths) and all(file.state in ("done", "already") for file in files),
    )


class _Run:
    """One file."""

    def __init__(self, bus: Bus, path: str, options: Options, progress: Progress, stop: threading.Event) -> None:
        self._bus, self._path, self._options, self._progress, self._stop = bus, path, options, progress, stop
        self._source = printable(options.source or ("stdin" if path == STDIN else Path(path).name))[:200]
        self._retry = retrying(stop, progress.say)
        self._pace = Pace(options.rate, stop)
        self._report = FileReport(printable(path))

    def report(self) -> FileReport:
        """Run to the end, to `stop` or to an error, and say what became of it."""
        report = self._report
        started = time.monotonic()
        self._progress.begin(report.path)
        try:
            with ExitStack() as held:
                self._pipe(held) if is_pipe(self._path) else self._file(held)
            if report.state == "stopped":
                report.detail = self._how_to_go_on()
        except Fenced:
            report.state = "superseded"
            report.detail = "another `tickerloop ingest` of this file was started later and goes on; this one stops"
        except (Transient, Misconfigured, Rejected) as error:
            report.state = "stopped" if self._stop.is_set() else "failed"
            report.detail = f"{str(error).strip()}; {self._how_to_go_on()}" if report.line else str(error).strip()
        except Exception as error:  # a defect of ours that one file brings out must not keep the others from being read
            log.exception("%s", report.path)
            report.state, report.detail = "failed", f"{type(error).__name__}: {error}"
        finally:
            self._progress.end()
            report.seconds = time.monotonic() - started
        if report.detail:
            self._progress.say(f"{report.path}: {report.detail}")
        return report

    def _how_to_go_on(self) -> str:
        if is_pipe(self._path):
            return (
                f"stopped after line {self._report.line:,}; send the input again, its ids make the repeats duplicates"
            )
        return f"stopped after line {self._report.line:,}; the same command goes on from there"

    def _file(self, held: ExitStack) -> None:
        path, report, wanted = self._path, self._report, self._options.wanted
        kind = self._options.kind or format_of(path)
        name = journal_name(path, kind, self._source, wanted)
        writer = held.enter_context(closing(JournalWriter(self._bus, name, self._retry)))
        start = begin(path, writer.mark, self._options.again)
        mark = start.mark
        report.line = mark.line
        if start.already:
            report.state, report.detail = "already", start.note
            return
        if start.note:
            self._progress.say(f"{report.path}: {start.note}")
        opened = open_source(path, kind, self._source, wanted, mark.place, held)
        items = without_known(opened.items, mark.half)
        for batch in batches(items, self._source, mark.place, self._pace.batch):
            mark = moved(mark, batch)
            writer.write(batch.events, mark.encoded())
            self._published(batch, opened.fraction(batch.place))
            if batch.last:
                report.state = "done"
            elif self._stop.is_set():
                return

    def _pipe(self, held: ExitStack) -> None:
        kind = self._options.kind or format_of(self._path)
        self._progress.say("there is no going on in the middle of a pipe: a text sent again is found by its id")
        writer = Writer(self._bus, self._retry)
        opened = open_source(self._path, kind, self._source, self._options.wanted, Place(), held)
        for batch in batches(live(opened.items, self._stop), self._source, Place(), self._pace.batch):
            writer.write(batch.events)
            self._published(batch, None)
        self._report.state = "stopped" if self._stop.is_set() else "done"

    def _published(self, batch: Batch, fraction: float | None) -> None:
        self._report.texts += batch.texts
        self._report.dead += len(batch.events) - batch.texts
        self._report.line = batch.place.line + batch.place.half
        self._progress.moved(self._report.texts, self._report.dead, fraction)
        if not batch.last:
            self._pace.after(len(batch.events))
