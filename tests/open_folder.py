"""A temporary folder that PostgreSQL's own user may pass, which pytest's own folders, for root alone, are not."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def open_folder(kept: Path) -> Iterator[Path]:
    """Removed at the end, but for its logs: those go to `kept`.

    Opening pytest's folder instead doesn't last: every pytest that starts on the machine closes it again.
    """
    with tempfile.TemporaryDirectory(prefix="tickerloop-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        try:
            yield folder
        finally:
            for log in (*folder.rglob("*.log"), *folder.rglob("*.out")):
                copy = kept / log.relative_to(folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(log, copy)
