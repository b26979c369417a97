"""What the tests of ingest share: the command as a process of its own, and what lies in the log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from services.ingest.command import Options, Report, ingest_files
from services.settings import Settings
from services.stream.bus import Record
from services.stream.events import RawText, decode
from services.stream.topics import RAW, dead

DEFAULT = Options()

COMMAND = (
    "from services.ingest.cli import ingest; from services.settings import from_environment;"
    " ingest(obj=from_environment)"
)


class Quiet:
    """A `Progress` that remembers what was said, and calls `hook` after each batch."""

    def __init__(self, hook: Any = None) -> None:
        self.said: list[str] = []
        self.hook = hook

    def begin(self, path: str) -> None: ...

    def moved(self, texts: int, dead: int, fraction: float | None) -> None:
        assert fraction is None or 0 <= fraction <= 1
        if self.hook:
            self.hook(texts + dead)

    def say(self, line: str) -> None:
        self.said.append(line)

    def end(self) -> None: ...


def settings(database: str) -> Settings:
    return Settings(database=database)


def prepared(database: str) -> str:
    with closing(settings(database).open_bus("test")) as bus:
        bus.create_topics()
    return database


def ingest(
    database: str,
    *paths: Path,
    options: Options = DEFAULT,
    progress: Quiet | None = None,
    stop: threading.Event | None = None,
) -> Report:
    with closing(settings(database).open_bus("ingest")) as bus:
        return ingest_files(bus, [str(path) for path in paths], options, progress or Quiet(), stop or threading.Event())


def start(database: str, *arguments: str | Path, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, arguments)],
        env=os.environ | {"TICKERLOOP_DATABASE": database},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def records(database: str, topic: str = RAW) -> list[Record]:
    found: list[Record] = []
    with closing(settings(database).open_bus("test")) as bus:
        end = sum(bus.ends(topic).values())
        with closing(bus.reader([topic])) as reader:
            while len(found) < end:
                found.extend(reader.poll(1.0, 10_000))
    return found


def texts(database: str) -> list[str]:
    return [decode(RawText, record.value).text for record in records(database)]


def dead_letters(database: str) -> list[tuple[str, str, bytes]]:
    found = []
    for record in records(database, dead(RAW)):
        headers = dict(record.headers)
        assert headers["group"] == b"ingest"
        found.append((headers["reason"].decode(), json.loads(headers["origin"]), record.value))
    return found


def lines_file(path: Path, numbers: Sequence[int]) -> Path:
    path.write_text("".join(f"text number {number}\n" for number in numbers))
    return path
