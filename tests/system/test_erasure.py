"""Erasure, seen from outside: afterwards no file of the deployment holds a byte of what was erased.

Every file is searched: PostgreSQL's tables and write-ahead log, Kafka's segments, models, reports and logs. The same
search finds each needle before, or it would prove nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
from kafka_broker import SCRIPT, Broker, free_ports, need_kafka
from open_folder import open_folder
from system.loop import COMMAND, TickerLoop, eventually

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

RETENTION_S = 2
SOON = "log.retention.check.interval.ms=2000\nlog.segment.delete.delay.ms=500\n"
"""A broker looks for what is over every five minutes, and removes files a minute later; a test has less time."""


class Needles(NamedTuple):
    """Words that are nowhere else."""

    text: str = "Zqvallorne"
    kept: str = "Zqvemridge"
    refused: str = "Zqvoltheim"
    name: str = "Zqvia"
    comment: str = "zqvulgarly"


def story(needle: str) -> str:
    """Long enough to have near copies."""
    return (
        f"Shares of {needle} fell sharply after the shipping group warned that freight revenue in the third quarter"
        " would come in well below what analysts had expected, and that it was reviewing its dividend, its fleet and"
        " the jobs of several hundred people at its yards in the north of the country, said its chief executive on"
        " Tuesday."
    )


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def loop(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TickerLoop]:
    """A loop all of whose files lie in its folder's parent, the broker's as well."""
    with open_folder(tmp_path) as folder:
        bus = "embedded"
        broker = None
        if request.param == "kafka":
            need_kafka()
            broker = quick_broker(folder, monkeypatch)
            bus = f"kafka://{broker.bootstrap}"
        try:
            with TickerLoop(folder / "loop", bus, {"TICKERLOOP_MODELS": str(folder / "models")}) as running:
                yield running
        finally:
            if broker is not None:
                broker.crash()


def quick_broker(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Broker:
    """One that looks for what is over every two seconds."""
    libraries = os.environ.get("KAFKA_LIBS", str(SCRIPT.parents[2] / "var" / "kafka" / "libs"))
    monkeypatch.setenv("KAFKA_LIBS", libraries)
    shutil.copytree(SCRIPT.parent, folder / "ops" / "kafka")
    with (folder / "ops" / "kafka" / "server.properties").open("a") as properties:
        properties.write(SOON)
    broker = Broker(folder / "broker", free_ports(), folder / "ops" / "kafka" / SCRIPT.name)
    broker.start()
    return broker


def holding(folder: Path, needle: str) -> list[str]:
    """Files with the needle in them."""
    found = []
    for path in folder.rglob("*"):
        try:
            if path.is_file() and needle.encode() in path.read_bytes():
                found.append(str(path.relative_to(folder)))
        except FileNotFoundError:  # PostgreSQL's and Kafka's files come and go
            continue
    return found


def in_valkey(loop: TickerLoop, *needles: str) -> list[bytes]:
    """Keys that hold one of the needles, or are named so."""
    found = []
    with closing(redis.Redis.from_url(loop.settings()["TICKERLOOP_REDIS"])) as client:
        for key in client.scan_iter():
            value = client.get(key) if client.type(key) == b"string" else client.hgetall(key)
            if any(needle in f"{key!r} {value!r}" for needle in needles):
                found.append(key)
    return found


def sent(loop: TickerLoop, texts: list[dict[str, str]]) -> list[str]:
    """Ids of texts, once all are accounted for."""
    found = [text["text_id"] for text in loop.post("/v1/texts", texts)["accepted"]]
    loop.run("status", "--wait")
    return found


def judged(loop: TickerLoop, text_id: str, needles: Needles) -> None:
    """Corrected, with a comment that quotes."""
    query = f"SELECT prediction_id, label FROM prediction WHERE text_id = '{text_id}'"  # noqa: S608 (our own)
    ((prediction, label),) = loop.rows(query)
    other = "positive" if label != "positive" else "negative"
    word = {"prediction_id": prediction, "label": other, "annotator": needles.name}
    loop.post("/v1/feedback", word | {"comment": f"{needles.comment} about {needles.text}"})


def erased(loop: TickerLoop, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(loop.run("erase", *arguments, "--json"))
    return found


def fates(loop: TickerLoop) -> Mapping[str, int]:
    reasons: dict[str, int] = loop.status()["account"]["reasons"]
    return reasons


def test_nothing_holds_what_was_erased(loop: TickerLoop) -> None:
    folder = loop.data.parent
    kafka = (folder / "broker").exists()
    needles = Needles()
    # With these ids neither text is held out: so the model learns from both.
    text = {"text": story(needles.text), "source": "wire", "id": "Zqvallorne-17", "url": "https://x.test/Zqvallorne"}
    near = story(needles.text) + " sources"
    german = f"Die Aktie von {needles.refused} fiel nach der Gewinnwarnung um zehn Prozent"
    other = {"text": story(needles.kept)[:200], "source": "wire", "id": "kept-1"}
    foreign = {"text": german, "source": "dpa", "id": "g1"}
    first, kept = sent(loop, [text, other])
    copy, nearly, _ = sent(
        loop, [{"text": text["text"], "source": "copier"}, {"text": near, "source": "editor"}, foreign]
    )
    assert {"duplicate:exact": 1, "duplicate:near": 1, "language": 1}.items() <= fates(loop).items()
    for text_id in (first, kept):
        judged(loop, text_id, needles)
    eventually(lambda: loop.rows("SELECT count(*) FROM example")[0][0] == 2, 60, "no examples")
    version = json.loads(loop.run("train"))["version"]
    loop.execute("CHECKPOINT")
    rows = [needle for needle in needles if needle != needles.refused]
    records = [needles.text, needles.kept, needles.refused]
    assert all(holding(folder / "loop" / "postgres", needle) for needle in rows), "the search finds it"
    assert all(holding(folder / ("broker" if kafka else "loop/postgres"), needle) for needle in records)
    assert in_valkey(loop, first), "near copies are known by keys that lead to it"

    dry = erased(loop, "text", first, "--dry-run")
    assert loop.rows("SELECT count(*) FROM erasure") == [(0,)] and fates(loop).get("erased") is None
    done = erased(loop, "text", "--source", "wire", "--external-id", text["id"], "--retrain")
    assert done["subjects"] == sorted([first, copy, nearly]) == dry["subjects"]
    assert {"text": 1, "comment": 1}.items() <= done["rows"].items() and done["records"]["texts.raw"] == 3
    assert done["emptied"] == (0 if kafka else sum(done["records"].values()))
    assert (done["gone_by"] is not None) == kafka
    assert (done["versions"], done["retrain"]) == ([version], "asked")
    erased(loop, "text", "--source", "dpa", "--external-id", "g1")
    gone = erased(loop, "annotator", needles.name)
    assert gone["rows"] == {"annotator": 1, "api_key": 0, "comment": 1}
    assert loop.call("erase", "annotator", needles.name).returncode == 3, "nobody is called so"

    sent(loop, [text, {"text": text["text"], "source": "another"}, foreign])
    assert fates(loop)["erased"] == 3, "by its id, by its content; a refused one as well"
    assert loop.status()["waiting"] == 0
    outcome = "SELECT retrain FROM erasure ORDER BY erasure LIMIT 1"
    eventually(lambda: loop.rows(outcome)[0][0].startswith("made "), 120, "no model without it")
    assert loop.rows(outcome) != [(f"made {version}",)]

    if kafka:
        environment = loop.environment | loop.settings() | {"TICKERLOOP_TEXT_RETENTION_S": str(RETENTION_S)}
        subprocess.run([*COMMAND, "migrate"], env=environment, check=True, timeout=120)
        searched = (needles.text, needles.refused)
        eventually(lambda: not any(holding(folder / "broker", n) for n in searched), 120, "Kafka keeps it")
    loop.run("erase", "scrub")
    for needle in (needles.text, needles.refused, needles.name, needles.comment):
        assert holding(folder, needle) == []
    assert in_valkey(loop, first, copy, nearly, needles.text, needles.name) == []
    assert holding(folder / "loop" / "postgres", needles.kept), "the others are still there"
    assert loop.rows("SELECT count(*) FROM example") == [(2,)], "what was learned stays on record, by ids"
    assert sent(loop, [{"text": story(needles.kept)[-250:], "source": "later"}]), "and it goes on"
