"""Files into the log: each text once, through kills, growth, changes and a second run at the same time."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from ingest_kit import Quiet, dead_letters, ingest, lines_file, prepared, records, start, texts

from services.ingest import command
from services.ingest.command import Options
from services.ingest.cursor import Start
from services.ingest.fields import Wanted
from services.stream.bus import Outgoing
from services.stream.events import RawText, decode, text_id
from services.stream.postgres import PostgresJournal
from services.stream.topics import RAW


@pytest.fixture
def log(database: str) -> str:
    return prepared(database)


def wait_for(log: str, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    with closing(psycopg2.connect(log)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        while time.monotonic() < deadline and process.poll() is None:
            cursor.execute("SELECT coalesce(sum(next), 0) FROM log.head WHERE topic = %s", (RAW,))
            row = cursor.fetchone()
            if row and row[0] >= count:
                return
            time.sleep(0.005)


def test_a_file_enters_once(log: str, tmp_path: Path) -> None:
    path = tmp_path / "news.csv"
    path.write_text("id,title\n" + "".join(f"{n},headline {n}\n" for n in range(5_000)) + "broken\n")
    options = Options(Wanted(id_field="id"))
    report = ingest(log, path, options=options)
    assert (report.texts, report.dead, report.complete) == (5_000, 1, True)
    assert Counter(texts(log)) == Counter(f"headline {n}" for n in range(5_000))
    assert dead_letters(log) == [("malformed", "news.csv:5002", b"broken\n")]
    for record in records(log)[:50]:
        raw = decode(RawText, record.value)
        assert raw.source == "news.csv"
        assert record.key.decode() == text_id(raw)

    second = ingest(log, path, options=options)
    assert (second.files[0].state, second.texts) == ("already", 0)
    assert "already ingested (5,000 texts); --again" in second.files[0].detail
    assert len(records(log)) == 5_000
    assert ingest(log, path, options=options._replace(again=True)).texts == 5_000
    assert ingest(log, path, options=options._replace(source="other")).texts == 5_000, "other ids: other texts"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["wire.txt", "wire.csv.gz"])
def test_killed_and_started_again_it_goes_on(log: str, tmp_path: Path, name: str, seed: int) -> None:
    chance = random.Random(seed)
    count = 12_000
    rows = [f'"text {n}\nsecond line",x\n' if ".csv" in name and n % 7 == 0 else f"text {n},x\n" for n in range(count)]
    bad = {n: f"text {n},x,y,z\n" for n in chance.sample(range(count), 20)} if ".csv" in name else {}
    content = ("title,other\n" if ".csv" in name else "") + "".join(bad.get(n, row) for n, row in enumerate(rows))
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())

    for goal in sorted(chance.sample(range(1, count - 2_000), 4)):
        process = start(log, path, "--rate", "8000")
        wait_for(log, goal, process)
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        process.communicate()
    report = ingest(log, path)
    assert report.files[0].state in ("done", "already")
    assert report.texts < count - len(bad), "it went on, it didn't start over"
    found = Counter(text.split()[1].removesuffix(",x") for text in texts(log))
    assert found == Counter(str(n) for n in range(count) if n not in bad)
    assert Counter(value for _, _, value in dead_letters(log)) == Counter(row.encode() for row in bad.values())


def test_a_server_that_goes_away_is_waited_for(log: str, tmp_path: Path) -> None:
    path = lines_file(tmp_path / "a.txt", range(20_000))
    chance = random.Random(1)

    def end_backends(_: int) -> None:
        if chance.random() < 0.5:
            with closing(psycopg2.connect(log)) as connection:
                connection.cursor().execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND application_name LIKE '%ingest'"
                )

    progress = Quiet(end_backends)
    assert ingest(log, path, progress=progress).complete
    assert Counter(texts(log)) == Counter(f"text number {n}" for n in range(20_000))
    assert any("trying again" in line for line in progress.said)


def test_a_grown_file_goes_on_at_its_end(log: str, tmp_path: Path) -> None:
    path = lines_file(tmp_path / "a.txt", range(10))
    with path.open("a") as file:
        file.write("text num")
    assert ingest(log, path).texts == 11
    assert ingest(log, path).files[0].state == "already"
    with path.open("a") as file:
        file.write("ber 10\nno line end yet")
    assert ingest(log, path).texts == 2, "the half line is read again, whole"
    with path.open("a") as file:
        file.write("\nlast\n")
    progress = Quiet()
    assert ingest(log, path, progress=progress).texts == 1, "a line that only got its end is known"
    assert any("the file has grown: going on after line" in line for line in progress.said)
    expected = [*(f"text number {n}" for n in range(11)), "text num", "no line end yet", "last"]
    assert Counter(texts(log)) == Counter(expected)


def test_a_changed_file_is_a_new_one(log: str, tmp_path: Path) -> None:
    path = lines_file(tmp_path / "a.txt", range(10))
    ingest(log, path)
    lines_file(path, range(100, 120))
    progress = Quiet()
    assert ingest(log, path, progress=progress).texts == 20
    assert any("changed since: reading it as a new one" in line for line in progress.said)
    lines_file(path, range(100, 110))
    assert ingest(log, path).texts == 10, "a file that shrank"


def test_a_change_beyond_the_beginning_is_noticed(log: str, tmp_path: Path) -> None:
    path = lines_file(tmp_path / "a.txt", range(10_000))
    ingest(log, path)
    lines_file(path, [*range(9_000), *range(20_000, 21_010)])
    progress = Quiet()
    assert ingest(log, path, progress=progress).texts == 10_010
    assert any("changed since: reading it as a new one" in line for line in progress.said)


def test_again_is_not_done_before_it_is_committed(log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lines_file(tmp_path / "a.txt", range(10))
    ingest(log, path)
    publish, lost = PostgresJournal.publish, [True]

    def losing(journal: PostgresJournal, events: Sequence[Outgoing], mark: str) -> None:
        if lost.pop() if lost else False:
            with closing(psycopg2.connect(log)) as connection:
                connection.cursor().execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND application_name LIKE '%ingest'"
                )
        publish(journal, events, mark)

    monkeypatch.setattr(PostgresJournal, "publish", losing)
    progress = Quiet()
    assert ingest(log, path, options=Options(again=True), progress=progress).texts == 10
    assert any("trying again" in line for line in progress.said)
    assert len(records(log)) == 20


def test_of_two_runs_at_once_the_later_goes_on(log: str, tmp_path: Path) -> None:
    path = lines_file(tmp_path / "a.txt", range(3_000))
    first = start(log, path, "--rate", "1000", "--json")
    wait_for(log, 500, first)
    assert ingest(log, path).complete
    out, err = first.communicate(timeout=30)
    assert first.returncode == 1
    assert json.loads(out)["files"][0]["state"] == "superseded"
    assert "another `tickerloop ingest` of this file was started later" in err
    assert Counter(texts(log)) == Counter(f"text number {n}" for n in range(3_000))


def test_ctrl_c_stops_after_the_batch_and_says_how_to_go_on(log: str, tmp_path: Path) -> None:
    path = lines_file(tmp_path / "a.txt", range(3_000))
    process = start(log, path, "--rate", "1000", "--json")
    wait_for(log, 300, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    report = json.loads(out)
    assert (process.returncode, report["files"][0]["state"], report["complete"]) == (130, "stopped", False)
    assert f"stopped after line {report['texts']:,}; the same command goes on from there" in err
    assert len(texts(log)) == report["texts"]
    assert ingest(log, path).texts == 3_000 - report["texts"]
    assert len(set(texts(log))) == len(texts(log)) == 3_000


def test_standard_input_is_published_as_it_comes(log: str) -> None:
    process = start(log, "-", "--format", "lines", "--source", "wire", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write("first\nsecond\n")
    process.stdin.flush()
    wait_for(log, 2, process)
    assert Counter(texts(log)) == Counter(["first", "second"])
    process.stdin.write("third\n")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "there is no going on in the middle of a pipe" in err
    assert "3 texts in" in err
    assert sorted(texts(log)) == ["first", "second", "third"]


def test_the_rate_is_held(log: str, tmp_path: Path) -> None:
    path = lines_file(tmp_path / "a.txt", range(300))
    started = time.monotonic()
    ingest(log, path, options=Options(rate=150))
    assert 1.4 < time.monotonic() - started < 4


def test_a_bad_file_does_not_keep_the_others_out(log: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("no,decision\n1,x\n")
    good = lines_file(tmp_path / "good.txt", range(5))
    report = ingest(log, bad, good)
    assert [file.state for file in report.files] == ["failed", "done"]
    assert "found no, decision" in report.files[0].detail
    assert not report.complete


def test_a_defect_that_one_file_brings_out_does_not_keep_the_others_out(
    log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = lines_file(tmp_path / "bad.txt", range(5)), lines_file(tmp_path / "good.txt", range(5))
    begin = command.begin

    def breaking(path: str, stored: str, again: bool) -> Start:
        assert path != str(bad), "broken"
        return begin(path, stored, again)

    monkeypatch.setattr(command, "begin", breaking)
    report = ingest(log, bad, good)
    assert [file.state for file in report.files] == ["failed", "done"]
    assert "AssertionError: broken" in report.files[0].detail


def test_a_name_that_is_not_utf8(log: str, tmp_path: Path) -> None:
    bad = Path(os.fsdecode(bytes(tmp_path / "kurs-") + b"\xe4"))
    process = start(
        log, lines_file(bad.with_suffix(".txt"), range(5)), lines_file(bad.with_suffix(".dat"), []), "--json"
    )
    out, err = process.communicate(timeout=30)
    assert [file["state"] for file in json.loads(out)["files"]] == ["done", "failed"]
    assert "kurs-\\xe4.dat" in err
    assert {decode(RawText, record.value).source for record in records(log)} == {"kurs-\\xe4.txt"}
    assert ingest(log, bad.with_suffix(".txt")).files[0].state == "already"


def test_stopped_before_it_starts_nothing_is_read(log: str, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    report = ingest(log, lines_file(tmp_path / "a.txt", range(5)), stop=stop)
    assert (report.files, report.complete) == ([], False)
