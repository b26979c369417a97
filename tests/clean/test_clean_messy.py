"""The demo's messy texts, written by hand with what must become of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Fates, record

PATH = Path("services/demo/parts/messy.jsonl")
ROWS = [json.loads(line) for line in PATH.read_text(encoding="utf-8").splitlines()] if PATH.exists() else []

FATES = {
    "scored": {"clean"},
    "copy": {"duplicate:exact", "duplicate:near"},
    "rejected:empty": {"empty"},
    "rejected:boilerplate": {"boilerplate"},
    "rejected:length": {"too_short"},
    "rejected:language": {"language"},
}
LABELLED_WRONG = {
    "messy-302": {"clean"},  # 107,200 characters are within `events.MAX_TEXT_CHARS`
}


@pytest.mark.skipif(not ROWS, reason="the demo's texts are not there")
@pytest.mark.parametrize("batch", [1, 302])
def test_every_text_meets_its_fate(new_step: Callable[[], Fates], batch: int) -> None:
    step = new_step()
    fates: list[str] = []
    for start in range(0, len(ROWS), batch):
        part = ROWS[start : start + batch]
        fates += step(
            *(record(row["text"], **{k: row[k] for k in ("id", "source", "title") if k in row}) for row in part)
        )
    wrong = [
        (row["id"], row["expect"], fate)
        for row, fate in zip(ROWS, fates, strict=True)
        if fate not in LABELLED_WRONG.get(row["id"], FATES[row["expect"]])
    ]
    assert not wrong
