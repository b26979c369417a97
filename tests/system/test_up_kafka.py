"""`tickerloop up` on Apache Kafka: any client's records, and a broker that crashes in the middle of a stream."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaProducer  # type: ignore[import-untyped]
from kafka_broker import Broker, fresh_broker, need_kafka
from system.account import ORDER, SCORED, accounted, in_order
from system.loop import TickerLoop, eventually
from system.texts import write

pytestmark = [pytest.mark.system, pytest.mark.kafka]

COUNT = 3_000
OUTAGE_S = 20
"""Longer than a Kafka client waits by itself, so that our own errors and retries come into play."""


@pytest.fixture(scope="module")
def broker(shared_folder: Path) -> Iterator[Broker]:
    need_kafka()
    with fresh_broker(shared_folder / "broker") as running:
        yield running


@pytest.fixture(scope="module")
def loop(shared_folder: Path, broker: Broker) -> Iterator[TickerLoop]:
    with TickerLoop(shared_folder / "loop", f"kafka://{broker.bootstrap}") as running:
        yield running


def dead(loop: TickerLoop) -> dict[str, int]:
    found = json.loads(loop.run("dlq", "list", "--json"))
    return {row["reason"]: row["count"] for row in found if row["topic"] == "texts.raw.dead"}


def test_any_client_may_write_and_what_is_malformed_becomes_a_dead_letter(loop: TickerLoop, broker: Broker) -> None:
    values = {
        "good": b'{"text": "Starbucks raises its dividend on record holiday sales", "source": "stranger"}',
        "malformed": b"\xff\xfe no JSON",
        "invalid": b'{"text": 17}',
    }
    before = loop.status()["account"]
    with closing(KafkaProducer(bootstrap_servers=broker.bootstrap)) as stranger:
        for number, value in enumerate(values.values()):
            stranger.send("texts.raw", value, key=None if number else b"k", headers=[("trace", b"abc")])
        stranger.flush()
    eventually(lambda: dead(loop) == {"malformed": 1, "invalid": 1}, 30, "no dead letters")
    letters = [json.loads(line) for line in loop.run("dlq", "show", "texts.raw").splitlines()]
    assert {x["reason"]: x["group"] for x in letters} == {"malformed": "clean", "invalid": "clean"}
    assert {x["value"] for x in letters} == {"\\xff\\xfe no JSON", '{"text": 17}'}
    assert {x["origin"][0] for x in letters} == {"texts.raw"}
    assert loop.run("dlq", "replay", "texts.raw", "--reason", "invalid") == "1 replayed\n"
    eventually(lambda: dead(loop) == {"malformed": 1, "invalid": 2}, 30, "it did not die again")
    loop.run("status", "--wait")
    after = loop.status()
    grown = {key: after["account"][key] - before[key] for key in ("taken", "scored", "dead")}
    assert grown == {"taken": 4, "scored": 1, "dead": 3} and after["waiting"] == 0
    assert loop.rows("SELECT count(*) FROM prediction WHERE source = 'stranger'") == [(1,)]
    done = loop.call("replay", "clean", "--topic", "texts.raw", "--from", "oldest")
    assert done.returncode == 3 and "live members" in " ".join(done.stderr.split())


@pytest.mark.timeout(400)
def test_a_broker_killed_in_the_middle_of_a_stream_loses_nothing(
    loop: TickerLoop, broker: Broker, tmp_path: Path
) -> None:
    stories = write(tmp_path / "texts.jsonl", COUNT, 41, (int(time.time()) // 60 - 10) * 60_000)
    before = loop.status()
    services = dict(loop.rows("SELECT name, pid FROM service"))
    assert "relay" in services
    feeding = loop.start("ingest", str(tmp_path / "texts.jsonl"), "--id-field", "id", "--rate", "500")
    query = "SELECT coalesce(sum(n), 0) FROM tally WHERE topic = 'texts.raw'"
    goal = before["account"]["taken"] + COUNT / 3
    eventually(lambda: loop.rows(query)[0][0] >= goal, 60, "no progress")
    assert feeding.poll() is None
    broker.crash()
    time.sleep(OUTAGE_S)
    done = loop.call("status")
    assert done.returncode == 3 and "Connection refused" in done.stderr, "while it is away, status says so"
    broker.start()
    assert feeding.wait(150) == 0
    loop.run("status", "--wait", timeout=150)
    accounted(loop.status(), (i for (i,) in loop.rows(SCORED)), stories, before)
    in_order(loop.rows(ORDER))
    assert dict(loop.rows("SELECT name, pid FROM service")) == services, "services wait; none has to be restarted"
