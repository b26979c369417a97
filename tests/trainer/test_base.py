"""Base data of the user's own: read as ingest reads, refused with the rows that can't be replayed."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from services.stream.errors import Misconfigured
from services.trainer import base


def test_csv_and_json_lines_say_the_same(tmp_path: Path) -> None:
    rows = [("Profit rises, again", "positive"), ("Profit falls", " Bearish "), ("The meeting is on Monday", "NEU")]
    csv, jsonl, packed = (tmp_path / name for name in ("a.csv", "a.jsonl", "b.csv.gz"))
    csv.write_text("id,title,label\n" + "".join(f'{n},"{t}",{w}\n' for n, (t, w) in enumerate(rows)))
    jsonl.write_text("".join(json.dumps({"text": t, "label": w}) + "\n" for t, w in rows))
    packed.write_bytes(gzip.compress(csv.read_bytes()))
    found = {path.name: base.read(str(path)) for path in (csv, jsonl, packed)}
    assert {e.text: e.label for e in found["a.csv"].examples} == {rows[0][0]: 2, rows[1][0]: 0, rows[2][0]: 1}
    told = [[(e.example_id, e.text, e.label) for e in one.examples] for one in found.values()]
    assert told[0] == told[1] == told[2]
    (file,) = found["a.csv"].files
    assert file == base.BaseFile("a.csv", hashlib.sha256(csv.read_bytes()).hexdigest())
    assert {e.source for e in found["a.csv"].examples} == {"a.csv"}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "text,label\nup,positive\ndown,bad\n,neutral\n", "line 3: the label is 'bad', not one of negative,"),
        ("a.csv", "text,label\nup,positive\ndown,bad\n,neutral\n", "line 4: the text is empty"),
        (
            "a.csv",
            "text,label\n" + "up,2\n" * 7,
            "line 4: the label is '2', not one of negative, neutral, positive, and 4",
        ),
        (
            "a.csv",
            "text,mood\nup,positive\n",
            "a.csv has no column or key `label`; it is to say negative, neutral, positive",
        ),
        ("a.csv", "label,mood\nup,positive\n", "no column holds the text"),
        ("a.jsonl", '{"text": "up", "label": 2}\n', "line 1: the label is no text, not one of negative"),
        (
            "a.jsonl",
            '{"text": "up", "label": "positive"}\n{"text": 1, "label": "neutral"}\n',
            "line 2: the text is of type",
        ),
        ("a.txt", "up\n", "--base takes CSV, JSON lines or Parquet"),
        ("a", "up\n", "doesn't tell the format"),
    ],
)
def test_what_cannot_be_replayed_is_named(tmp_path: Path, name: str, content: str, says: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(Misconfigured) as refused:
        base.read(str(path))
    assert says in str(refused.value)


def test_a_text_counts_once_and_of_many_a_fixed_choice_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"text {n % 40},positive\n" for n in range(80)))
    assert len(base.read(str(path)).examples) == 40
    monkeypatch.setattr(base, "MOST", 10)
    first = base.read(str(path)).examples
    assert len(first) == 10 and first == base.read(str(path)).examples
