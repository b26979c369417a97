"""Every format, read from any place, with bad lines kept and good ones unharmed."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import io
import json
import random
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.ingest.batches import batches
from services.ingest.envelope import Problem, outgoing
from services.ingest.fields import Wanted
from services.ingest.files import format_of, open_source
from services.ingest.lines import MAX_LINE_BYTES, Place
from services.ingest.readers import Item, sniff
from services.stream.errors import Misconfigured
from services.stream.events import MAX_TEXT_CHARS, RawText, derived_id
from services.stream.topics import MAX_DEAD_BYTES, RAW, dead

GUESS, BEGINNING = Wanted(), Place()


def read(path: Path, wanted: Wanted = GUESS, start: Place = BEGINNING) -> list[Item]:
    with ExitStack() as held:
        return list(open_source(str(path), format_of(str(path)), "src", wanted, start, held).items)


def texts(items: list[Item]) -> list[str]:
    return [found.text for _, found in items if isinstance(found, RawText)]


def problems(items: list[Item]) -> list[Problem]:
    return [found for _, found in items if isinstance(found, Problem)]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_csv_with_quoted_newlines_and_delimiters(tmp_path: Path, ending: str) -> None:
    path = write(
        tmp_path / f"a.csv{ending}", b'id,Title,date\n1,"two\nlines, one text",2024-01-05\n\n2,"a ""b""",1700000000\n'
    )
    items = read(path, wanted=Wanted(id_field="ID"))
    assert [found for _, found in items] == [
        RawText(text="two\nlines, one text", source="src", id="1", published="2024-01-05"),
        RawText(text='a "b"', source="src", id="2", published=1_700_000_000),
    ]


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_the_delimiter_is_found(delimiter: str) -> None:
    rows = [["no", "title"], ["1", "a, b; c | d"], ["2", "plain"], ["3", 'with "quotes"\nand lines']]
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows(rows)
    assert sniff(out.getvalue().splitlines(keepends=True)) == delimiter


def test_json_lines(tmp_path: Path) -> None:
    lines = [
        '{"headline": "a", "link": "http://x/"}',
        "",
        '{"TEXT": "b", "title": "t", "published": 5.5}',
        "[1]",
        "{oops",
        '{"text": 3}',
        '{"x": 1}',
        '{"text": null}',
    ]
    items = read(write(tmp_path / "a.ndjson", "\n".join(lines).encode() + b"\n"))
    assert [found for _, found in items[:2]] == [
        RawText(text="a", source="src", url="http://x/"),
        RawText(text="b", source="src", title="t", published=5.5),
    ]
    assert [problem.raw.decode().strip() for problem in problems(items)] == lines[3:]
    assert {problem.reason for problem in problems(items)} == {"malformed"}


def test_plain_lines_and_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt.gz", "\ufeffKurs fällt\r\n\r\n  zweite  \nletzte".encode())
    items = read(path)
    assert texts(items) == ["Kurs fällt", "zweite", "letzte"]
    assert [place.line for place, _ in items] == [1, 3, 3]
    assert [place.half for place, _ in items] == [False, False, True]


def test_parquet_and_its_kinds_of_values(tmp_path: Path) -> None:
    when = dt.datetime(2024, 1, 5, 12, tzinfo=dt.UTC)
    table = pa.table({"body": ["a", None, "c"], "guid": [1, 2, 3], "timestamp": [when, when, None], "other": [0, 0, 0]})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=2)
    items = read(path, wanted=Wanted(id_field="guid"))
    assert items[0] == (Place(1, 1), RawText(text="a", source="src", id="1", published=when.isoformat()))
    assert isinstance(items[1][1], Problem)
    assert items[2] == (Place(3, 3), RawText(text="c", source="src", id="3"))
    assert read(path, wanted=Wanted(id_field="guid"), start=Place(1, 1)) == items[1:]
    packed = write(tmp_path / "b.parquet.gz", path.read_bytes())
    assert read(packed, wanted=Wanted(id_field="guid")) == items


def test_parquet_that_other_writers_made(tmp_path: Path) -> None:
    latin = pa.array([b"one", b"f\xe4llt", b"three"]).view(pa.string())
    when = pa.array([0, 2**62, 0], pa.timestamp("ms"))
    table = pa.table([latin, latin, pa.array(["x", "y", "z"]), when], ["text", "title", "text", "date"])
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    items = read(path)
    assert texts(items) == ["one", "three"]
    ((_, problem),) = [found for found in items if isinstance(found[1], Problem)]
    assert isinstance(problem, Problem)
    assert (problem.reason, problem.detail) == ("encoding", "the text is not UTF-8")
    text = pa.array(["one", "two", "three"])
    pq.write_table(pa.table([text, latin, when], ["text", "title", "date"]), path)
    found = [found for _, found in read(path) if isinstance(found, RawText)]
    assert [text.title for text in found] == ["one", "f\ufffdllt", "three"]
    assert [text.published for text in found] == ["1970-01-01T00:00:00", None, "1970-01-01T00:00:00"]


@pytest.mark.parametrize(
    "content", ['[\n  {"text": "a"}\n]', '[{"text": "a"}]', '{\n  "text": "a"\n}', '[ {"text": "a"},']
)
def test_a_json_document_is_no_json_lines(tmp_path: Path, content: str) -> None:
    with pytest.raises(Misconfigured, match="one JSON document, not an object per line; `jq -c"):
        read(write(tmp_path / "a.json", content.encode()))


def test_what_is_too_long_is_fitted_as_in_feeds(tmp_path: Path) -> None:
    rows = [
        {"text": "a", "title": "t" * 3_000, "url": "u" * 3_000, "guid": "i" * 600},
        {"text": "x" * (MAX_TEXT_CHARS + 1), "guid": None},
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)).encode())
    (_, text), (_, problem) = read(path, wanted=Wanted(id_field="guid"))
    assert text == RawText(text="a", source="src", title="t" * 2_000, id=derived_id("i" * 600))
    assert isinstance(problem, Problem)
    assert problem.reason == "oversize"


def test_bytes_that_are_not_utf8_spoil_one_row(tmp_path: Path) -> None:
    latin = "2,Kurs fällt\n".encode("latin-1")
    for name, content in {
        "a.csv": b"no,title\n1,one\n" + latin + b"3,three\n",
        "a.txt": b"one\n" + latin + b"three\n",
    }.items():
        items = read(write(tmp_path / name, content))
        assert len(texts(items)) == 2
        (problem,) = problems(items)
        assert problem.reason == "encoding"
        assert problem.raw == latin
        assert "0xe4" in problem.detail
    items = read(write(tmp_path / "a.jsonl", b'{"text":"one"}\n{"text":"f\xe4llt"}\n{"text":"three"}\n'))
    assert [p.reason for p in problems(items)] == ["encoding"]


def test_a_quote_that_nobody_closes_costs_one_line(tmp_path: Path) -> None:
    content = b'no,title\n1,"stray\n2,two\n3,three\n4,"fo""ur"\n5,five,too many\n6,six\n7,"tail\n8,eight\n'
    items = read(write(tmp_path / "a.csv", content))
    assert texts(items) == ["two", "three", 'fo"ur', "six", "eight"]
    assert [problem.raw for problem in problems(items)] == [b'1,"stray\n', b"5,five,too many\n", b'7,"tail\n']


def test_lines_beyond_the_limit_are_cut_and_passed_over(tmp_path: Path) -> None:
    huge = b"x" * (MAX_LINE_BYTES + 5_000_000)
    items = read(write(tmp_path / "a.txt", b"one\n" + huge + b"\ntwo\n"))
    assert texts(items) == ["one", "two"]
    (problem,) = problems(items)
    assert problem.reason == "oversize"
    event = outgoing(problem, "a.txt:2")
    assert event.topic == dead(RAW)
    assert len(event.value) + sum(len(k) + len(v) for k, v in event.headers) <= MAX_DEAD_BYTES
    large = outgoing(RawText(text="\x01" * 190_000, source="s"), "a.txt:3")
    assert (large.topic, dict(large.headers)["reason"]) == (dead(RAW), b"oversize")


def test_a_missing_column_names_those_that_there_are(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b"no,Decision,Words\n1,x,8\n")
    with pytest.raises(Misconfigured, match="found no, Decision, Words; name it with --text-field"):
        read(path)
    with pytest.raises(Misconfigured, match="--text-field 'headlin' is not a column; there are no, Decision, Words"):
        read(path, wanted=Wanted("headlin"))
    assert texts(read(path, wanted=Wanted("decision"))) == ["x"]
    with pytest.raises(Misconfigured, match="found a, b"):
        read(write(tmp_path / "a.jsonl", b'{"a": 1, "b": 2}\n{"a": 1}\n'))
    pq.write_table(pa.table({"x": [1]}), tmp_path / "a.parquet")
    with pytest.raises(Misconfigured, match="found x"):
        read(tmp_path / "a.parquet")


def test_files_that_are_not_what_they_say(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="--format"):
        format_of("news.dat")
    with pytest.raises(Misconfigured, match="standard input doesn't tell"):
        format_of("-")
    with pytest.raises(Misconfigured, match="not a Parquet file"):
        read(write(tmp_path / "a.parquet", b"nonsense" * 10))
    with pytest.raises(Misconfigured, match="UTF-16"):
        read(write(tmp_path / "a.csv", "title\nx\n".encode("utf-16")))
    whole = gzip.compress(b"title\n" + b"".join(b"%d\n" % random.Random(i).randrange(10**9) for i in range(9_000)))
    (tmp_path / "b.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Misconfigured, match="damaged or cut short"):
        read(tmp_path / "b.csv.gz")
    assert read(write(tmp_path / "empty.csv", b"")) == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl.gz", "a.txt", "a.csv.gz"])
def test_reading_on_from_any_place_gives_the_rest(tmp_path: Path, name: str, seed: int) -> None:
    chance = random.Random(seed)
    rows = []
    for number in range(200):
        text = f"text {number} " + "".join(chance.choices('ab"\n,é ', k=12))
        line = json.dumps({"text": text}) + "\n" if "json" in name else text.replace('"', '""') + "\n"
        rows.append(f'{number},"{line[:-1]}"\n' if "csv" in name else line)
    content = ("no,text\n" if "csv" in name else "") + "".join(rows)
    noise = content.encode().replace(b"text 7", b"t\xff 7", 1).replace(b"text 9", b'"', 1)
    path = write(tmp_path / name, noise)
    items = read(path)
    for index in chance.sample(range(len(items)), 20):
        assert read(path, start=items[index][0]) == items[index + 1 :]


def test_batches_keep_their_bounds_and_know_the_last() -> None:
    items: list[Item] = [(Place(n, n), RawText(text=f"t{n}")) for n in range(1, 8)]
    assert [(len(b.events), b.place.at, b.last) for b in batches(items, "s", Place(), 3)] == [
        (3, 3, False),
        (3, 6, False),
        (1, 7, True),
    ]
    assert [(len(b.events), b.last) for b in batches([], "s", Place(), 3)] == [(0, True)]
    large: list[Item] = [(Place(n, n), RawText(text="x" * 190_000)) for n in range(1, 12)]
    assert [len(b.events) for b in batches(large, "s", Place(), 1000)] == [6, 5]
