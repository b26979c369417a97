"""Progress on standard error: a bar where there is a terminal, else a line every few seconds."""

from __future__ import annotations

import time
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn

EVERY_S: Final = 5.0


class Bar:
    """For a terminal."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[counts]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._console = console
        self._task = TaskID(0)
        self._started = 0.0

    def begin(self, path: str) -> None:
        """See `Progress`."""
        self._started = time.monotonic()
        self._task = self._progress.add_task(path, total=None, counts="")
        self._progress.start()

    def moved(self, texts: int, dead: int, fraction: float | None) -> None:
        """See `Progress`."""
        total = None if fraction is None else 1.0
        counts = _counts(texts, dead, time.monotonic() - self._started)
        self._progress.update(self._task, total=total, completed=fraction or 0.0, counts=counts)

    def say(self, line: str) -> None:
        """See `Progress`."""
        self._console.print(line, markup=False, highlight=False)

    def end(self) -> None:
        """See `Progress`."""
        self._progress.remove_task(self._task)
        self._progress.stop()


class Plain:
    """For a log."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._path = ""
        self._started = self._told = 0.0
        self._first: tuple[float, float] | None = None
        """The first fraction there was, and when: what lay behind a run's beginning cost it no time."""

    def begin(self, path: str) -> None:
        """See `Progress`."""
        self._path = path
        self._started = self._told = time.monotonic()
        self._first = None

    def moved(self, texts: int, dead: int, fraction: float | None) -> None:
        """See `Progress`."""
        now = time.monotonic()
        if self._first is None and fraction is not None:
            self._first = fraction, now
        if now - self._told >= EVERY_S:
            self._told = now
            share = "" if fraction is None else f", {fraction:.0%}{self._left(fraction, now)}"
            self.say(f"{self._path}: {_counts(texts, dead, now - self._started)}{share}")

    def _left(self, fraction: float, now: float) -> str:
        first, since = self._first or (fraction, now)
        return f", {(1 - fraction) * (now - since) / (fraction - first):,.0f} s left" if fraction > first else ""

    def say(self, line: str) -> None:
        """See `Progress`."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def end(self) -> None:
        """See `Progress`."""


def _counts(texts: int, dead: int, seconds: float) -> str:
    rate = (texts + dead) / max(seconds, 1e-3)
    return f"{texts:,} texts" + (f", {dead:,} unreadable" if dead else "") + f", {rate:,.0f}/s"
