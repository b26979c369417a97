"""The last look before a run: nothing that measures may have been learned from. A leak refuses the run.

`splits` keeps the sides apart; this trusts nothing that it did, and looks at what is about to be learned from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from psycopg2.extensions import cursor as Cursor

from services.stream.errors import Misconfigured
from services.stream.events import in_holdout
from services.trainer.anchors import anchors
from services.trainer.copies import said
from services.trainer.dataset import Dataset

SHOWN: Final = 10
"""Ids that a refusal names of each kind."""


class Leak(NamedTuple):
    """One kind of leak and the ids that show it."""

    kind: str
    ids: list[str]


class _Text(NamedTuple):
    id: str
    text_id: str
    cluster: str
    text: str


def refuse(cursor: Cursor, data: Dataset) -> None:
    """Look for leaks, also towards what earlier runs have learned from.

    Raises:
        Misconfigured: there is one; the message names each kind and its ids.
    """
    cursor.execute(
        "SELECT text_id FROM learned_text WHERE text_id = ANY(%s) AND run <= %s",
        ([e.text_id for e in data.measure], data.cut.run),
    )
    leaks = find(data, {text_id for (text_id,) in cursor.fetchall()})
    if leaks:
        raise Misconfigured(f"the dataset leaks, so nothing is trained: {'; '.join(map(_told, leaks))}")


def find(data: Dataset, learned: Collection[str]) -> list[Leak]:
    """Every leak; `learned` are text ids that earlier runs have learned from. Empty when all is well."""
    labelled = [_Text(e.example_id, e.text_id, e.cluster, e.text) for e in (*data.learn, *data.replay)]
    teaching = labelled + [_Text(t.text_id, t.text_id, t.cluster, t.text) for t in data.live]
    measuring = [_Text(e.example_id, e.text_id, e.cluster, e.text) for e in (*data.measure, *data.anchor)]
    kept = {anchor.id for anchor in anchors() if not anchor.replayed}
    kinds = {
        "held out, yet taught": (t.id for t in teaching if t.cluster and in_holdout(t.cluster)),
        "the same text teaches and measures": _shared(teaching, measuring),
        "an anchor that measures, yet is taught": (t.id for t in teaching if t.id in kept),
        "measures, yet an earlier run has learned it": (e.example_id for e in data.measure if e.text_id in learned),
    }
    found = [Leak(kind, sorted(ids)) for kind, ids in kinds.items()]
    return [leak for leak in found if leak.ids]


def _shared(teaching: Iterable[_Text], measuring: Iterable[_Text]) -> Iterable[str]:
    """By id, by cluster, or by what they say."""
    known = {name for text in measuring for name in _names(text)}
    return (text.id for text in teaching if not known.isdisjoint(_names(text)))


def _names(text: _Text) -> set[tuple[str, ...]]:
    named = {("id", text.text_id), ("cluster", text.cluster)} - {("id", ""), ("cluster", "")}
    return named | {("says", *said(text.text))}


def _told(leak: Leak) -> str:
    more = f" and {len(leak.ids) - SHOWN} more" if len(leak.ids) > SHOWN else ""
    return f"{leak.kind}: {', '.join(leak.ids[:SHOWN])}{more}"
