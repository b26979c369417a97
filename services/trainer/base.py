"""Labelled texts of the user's own, to replay: `tickerloop train --base PATH`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from services.ingest.envelope import Problem
from services.ingest.fields import Wanted
from services.ingest.files import format_of, open_source, printable
from services.ingest.lines import Place
from services.score.labels import SYNONYMS
from services.stream.errors import Misconfigured
from services.stream.events import LABELS, RawText, derived_id
from services.trainer.dataset import BaseFile, Labelled

LABEL: Final = "label"
"""The column or key of the label; the text's is found as in `tickerloop ingest`."""
MOST: Final = 5_000
"""Texts that are replayed; of more, those whose ids come first: a fixed choice, and as good as random."""
SHOWN: Final = 3
"""Bad rows that a refusal names."""


class Base(NamedTuple):
    """What is replayed, and the file it is from."""

    files: tuple[BaseFile, ...]
    examples: list[Labelled]


NO_BASE: Final = Base((), [])


def read(path: str) -> Base:
    """Read CSV, JSON lines or Parquet, gzipped or not, with a text and a label (negative, neutral or positive) per row.

    Raises:
        Misconfigured: it can't be read, has no such columns, or rows that have no text or no such label; the message
            names the first of them.
    """
    name = printable(path)
    kind = format_of(path)
    if kind == "lines":
        raise Misconfigured(f"{name} has lines without labels; --base takes CSV, JSON lines or Parquet")
    texts = list(_column(path, ""))
    try:
        labels = list(_column(path, LABEL))
    except Misconfigured:
        raise Misconfigured(f"{name} has no column or key `{LABEL}`; it is to say {', '.join(LABELS)}") from None
    found: dict[str, Labelled] = {}
    bad: list[str] = []
    for (place, text), (_, label) in zip(texts, labels, strict=True):
        row = _row(text, label)
        if isinstance(row, str):
            bad.append(f"line {place.line + place.half}: {row}")
        else:
            found.setdefault(row.example_id, row._replace(source=Path(name).name))
    if bad:
        more = f", and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise Misconfigured(f"{name} has rows that can't be replayed: {'; '.join(bad[:SHOWN])}{more}")
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return Base((BaseFile(Path(name).name, digest),), [found[key] for key in sorted(found)][:MOST])


def _column(path: str, field: str) -> Iterator[tuple[Place, RawText | Problem]]:
    """One column of every row, as the text of an item."""
    with ExitStack() as held:
        yield from open_source(path, format_of(path), "base", Wanted(text_field=field), Place(), held).items


def _row(text: RawText | Problem, label: RawText | Problem) -> Labelled | str:
    """The example, or what is wrong with the row."""
    if isinstance(text, Problem):
        return text.detail
    if not text.text.strip():
        return "the text is empty"
    said = "no text" if isinstance(label, Problem) else repr(label.text[:40])
    meant = None if isinstance(label, Problem) else SYNONYMS.get(label.text.strip().lower())
    if meant is None:
        return f"the label is {said}, not one of {', '.join(LABELS)}"
    return Labelled(f"base-{derived_id('base', text.text)}", text.text, LABELS.index(meant), sampled=False)
