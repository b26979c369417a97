"""The demo's messy texts, written by hand with what must become of each."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from services.demo import readers

from .conftest import Fates, record

EXPECTED = {label.id: label.expect for label in readers.labels().values() if label.part == "messy"}
ROWS = [json.loads(line) for label, line in readers.stream() if label.part == "messy"]

FATES = {
    "scored": {"clean"},
    "copy": {"duplicate:exact", "duplicate:near"},
    "rejected:empty": {"empty"},
    "rejected:boilerplate": {"boilerplate"},
    "rejected:length": {"too_short"},
    "rejected:language": {"language"},
}


@pytest.mark.parametrize("batch", [1, 302])
def test_every_text_meets_its_fate(new_step: Callable[[], Fates], batch: int) -> None:
    step = new_step()
    fates: list[str] = []
    for start in range(0, len(ROWS), batch):
        part = ROWS[start : start + batch]
        fates += step(
            *(record(row["text"], **{k: row[k] for k in ("id", "source", "title") if k in row}) for row in part)
        )
    assert len(ROWS) == len(EXPECTED) == 302
    wrong = [
        (row["id"], EXPECTED[row["id"]], fate)
        for row, fate in zip(ROWS, fates, strict=True)
        if fate not in FATES[EXPECTED[row["id"]]]
    ]
    assert not wrong
