"""Two scorers on one stream: training by trigger and by command, and models that change in its middle."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from system.account import ORDER, SCORED, accounted, in_order
from system.loop import TickerLoop, eventually
from system.texts import Story, write

pytestmark = pytest.mark.system

COUNT = 12_000
"""There for a slow machine; a change waits for two scorers to prepare, and the stream ends after the last one."""
RATE = 100
"""Texts per second."""
BETWEEN = 150
"""Texts scored before each change."""
FIRST = 180
RETRAIN_AFTER = 80
"""Reached by the words on `FIRST` texts, of which some are held out or refused, once and not twice."""
LABELS = ("negative", "neutral", "positive")
CHANGES = ("promote", "rollback")
FORGE = "SET session_replication_role = replica"
"""A superuser gets past the trigger that keeps the ledger append-only."""


class Corpus(NamedTuple):
    """The stories in two files: `first` is there to be corrected, in `rest` models change."""

    stories: dict[str, Story]
    first: Path
    rest: Path


@pytest.fixture(scope="module")
def loop(shared_folder: Path) -> Iterator[TickerLoop]:
    settings = {
        "TICKERLOOP_RETRAIN_AFTER": str(RETRAIN_AFTER), "TICKERLOOP_RETRAIN_BELOW": "0", "TICKERLOOP_SHADOW_TEXTS": "0",
    }  # fmt: skip
    with TickerLoop(shared_folder, settings=settings, options=("--replicas", "score=2")) as running:
        yield running


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    stories = write(folder / "all.jsonl", COUNT, 51, (int(time.time()) // 60 - 10) * 60_000)
    lines = (folder / "all.jsonl").read_text().splitlines(keepends=True)
    first, rest = folder / "first.jsonl", folder / "rest.jsonl"
    first.write_text("".join(lines[:FIRST]))
    rest.write_text("".join(lines[FIRST:]))
    return Corpus(stories, first, rest)


def ledger(loop: TickerLoop) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(loop.run("models", "ledger"))
    return found


def champion(loop: TickerLoop) -> dict[str, Any]:
    found: dict[str, Any] = loop.status()["champion"]
    return found


def scorers(loop: TickerLoop) -> list[dict[str, Any]]:
    return [service["detail"] for service in loop.status()["services"] if service["name"] == "score"]


def challenger(loop: TickerLoop) -> str:
    """A registered model that is not in service."""
    found = json.loads(loop.run("models", "list", "--json"))
    return next(str(version["version"]) for version in found if not version["champion"])


class Feed:
    """Lines given to an `ingest` that reads its standard input, at `RATE`, until stopped."""

    def __init__(self, loop: TickerLoop, lines: list[str]) -> None:
        self._ingest = loop.start(
            "ingest", "-", "--format", "jsonl", "--id-field", "id", "--rate", str(2 * RATE), stdin=subprocess.PIPE
        )
        self._stop = threading.Event()
        self.sent: list[str] = []
        self._thread = threading.Thread(target=self._run, args=(lines,))
        self._thread.start()

    def _run(self, lines: list[str]) -> None:
        assert self._ingest.stdin
        with self._ingest.stdin as pipe:
            for start in range(0, len(lines), RATE // 10):
                if self._stop.wait(0.1):
                    return
                part = lines[start : start + RATE // 10]
                pipe.write("".join(part).encode())
                pipe.flush()
                self.sent += part

    def going_on(self) -> bool:
        return self._thread.is_alive() and self._ingest.poll() is None

    def stop(self) -> int:
        """The command's exit code."""
        self._stop.set()
        self._thread.join()
        return self._ingest.wait(120)


def sent(stories: dict[str, Story], lines: list[str]) -> dict[str, Story]:
    """The stories as far as they stand in `lines`."""
    there = {json.loads(line)["id"] for line in lines}
    parts = {name: story._replace(ids=[i for i in story.ids if i in there]) for name, story in stories.items()}
    return {name: story for name, story in parts.items() if story.ids}


def change(loop: TickerLoop, *arguments: str) -> int:
    """Promote or roll back, on the champion as it is now; the new epoch."""
    before = champion(loop)
    said = loop.run(
        "models", *arguments, "--reason", "a test", "--actor", "ana", "--expected-epoch", str(before["epoch"])
    )
    after = champion(loop)
    assert said == f"epoch {after['epoch']}: {after['version']} (was {before['version']})\n"
    return int(after["epoch"])


def test_with_one_model_there_is_nothing_to_learn_from_nor_to_go_back_to(loop: TickerLoop) -> None:
    done = loop.call("train")
    assert done.returncode == 3 and "correct some predictions first" in " ".join(done.stderr.split())
    done = loop.call("models", "rollback", "--reason", "a test")
    assert done.returncode == 3 and "no earlier champion" in done.stderr
    assert [row["action"] for row in ledger(loop)] == ["promote"]


def test_enough_corrections_start_a_training_that_the_ledger_tells_of(loop: TickerLoop, corpus: Corpus) -> None:
    first = champion(loop)
    loop.run("ingest", str(corpus.first), "--id-field", "id", "--wait")
    for prediction, text, label in loop.rows("SELECT prediction_id, text_id, label FROM prediction"):
        word = {"label": LABELS[(LABELS.index(label) + 1) % 3], "annotator": "ana", "sampled": True}
        loop.post("/v1/feedback", word | {"prediction_id": prediction, "text_id": text})
    rows = eventually(lambda: len(found := ledger(loop)) > 1 and found, 90, "no training came of it")
    row = rows[1]
    assert row["actor"] == "trainer" and row["action"] in ("promote", "refuse")
    assert row["champion"] == first["version"] != row["version"] and row["reason"]
    assert {"champion", "challenger", "p_value", "anchor_champion", "look", "needed"} <= row["evidence"].keys()
    state = "promoted" if row["action"] == "promote" else "refused"
    runs = eventually(
        lambda: loop.rows("SELECT trigger, state FROM training_run WHERE finished > 0"), 20, "the run was not closed"
    )
    assert runs[0] == ("volume", state)
    assert champion(loop)["version"] == row["champion" if state == "refused" else "version"]


def test_a_training_by_command_says_what_it_decided(loop: TickerLoop) -> None:
    before = ledger(loop)
    outcome = json.loads(loop.run("train"))
    after = ledger(loop)
    assert after[: len(before)] == before and after[-1]["epoch"] == outcome["epoch"] == len(after)
    assert (after[-1]["action"] == "promote") is outcome["promoted"]
    assert (after[-1]["version"], after[-1]["reason"]) == (outcome["version"], outcome["reason"])
    assert outcome["learned_from"] >= RETRAIN_AFTER
    assert loop.rows("SELECT trigger FROM training_run ORDER BY run DESC LIMIT 1") == [("command",)]


def test_list_and_show_tell_of_every_model(loop: TickerLoop) -> None:
    found = json.loads(loop.run("models", "list", "--json"))
    current = champion(loop)["version"]
    assert [v["version"] for v in found if v["champion"]] == [current] and len(found) > 1
    assert {v["version"] for v in found} == {row["version"] for row in ledger(loop)}
    lines = [line.split() for line in loop.run("models", "list").splitlines()]
    assert ["*", current] in [line[:2] for line in lines]
    for version in found:
        rows = [row for row in ledger(loop) if row["version"] == version["version"]]
        shown = json.loads(loop.run("models", "show", version["version"]))
        assert shown == version | {"comparison": None, "decisions": rows}
    status = [line.split() for line in loop.run("status").splitlines()]
    for slot, scorer in enumerate(scorers(loop)):
        shown = next(line for line in status if line[:2] == ["score", str(slot)])
        assert shown[-2:] == [scorer["model"], str(scorer["epoch"])] and scorer["model"] == current


@pytest.mark.parametrize("arguments", [("show", "nope"), ("promote", "nope", "--reason", "a test")])
def test_a_model_that_there_is_none_of(loop: TickerLoop, arguments: tuple[str, ...]) -> None:
    done = loop.call("models", *arguments)
    assert done.returncode == 3 and "there is no model nope" in done.stderr


def test_models_change_in_mid_stream_and_no_text_is_lost_or_scored_by_two(loop: TickerLoop, corpus: Corpus) -> None:
    (start,) = loop.rows("SELECT max(position) FROM prediction")[0]
    first = corpus.first.read_text().splitlines()
    other = challenger(loop)
    feed = Feed(loop, corpus.rest.read_text().splitlines(keepends=True))
    epochs = [champion(loop)["epoch"]]
    there, back = ("promote", other), ("rollback",)
    scored = f"SELECT count(*) FROM prediction WHERE position > {start}"  # noqa: S608 (our own)
    try:
        for arguments in (there, back, there, back, there):
            wanted = loop.rows(scored)[0][0] + BETWEEN
            eventually(lambda n=wanted: loop.rows(scored)[0][0] >= n, 60, "the stream doesn't go on")
            assert feed.going_on(), "the stream ended too soon to change anything in its middle"
            epochs.append(change(loop, *arguments))
        wanted = loop.rows(scored)[0][0] + BETWEEN
        eventually(lambda: loop.rows(scored)[0][0] >= wanted, 60, "the stream doesn't go on")
    finally:
        ended = feed.stop()
    assert ended == 0
    loop.run("status", "--wait")
    accounted(loop.status(), (i for (i,) in loop.rows(SCORED)), sent(corpus.stories, first + feed.sent))
    in_order(loop.rows(ORDER))
    champions = {row["epoch"]: row["version"] for row in ledger(loop) if row["action"] in CHANGES}
    rows = loop.rows(
        "SELECT origin_partition, epoch, model FROM prediction"  # noqa: S608 (our own)
        f" WHERE position > {start} ORDER BY origin_partition, origin_offset"
    )
    by_partition: dict[int, list[int]] = defaultdict(list)
    for partition, epoch, model in rows:
        assert champions[epoch] == model, "one model per epoch: the ledger's"
        by_partition[partition].append(epoch)
    assert len(by_partition) == 4
    for found in by_partition.values():
        assert found == sorted(found), "epochs run backwards"
        assert set(found) == set(epochs), "each model has had its turn"
    eventually(
        lambda: [(s["epoch"], s["model"]) for s in scorers(loop)] == 2 * [(epochs[-1], champions[epochs[-1]])],
        20,
        "a scorer stayed behind",
    )


@pytest.mark.parametrize("action", CHANGES)
def test_a_decision_on_a_champion_that_has_moved_is_refused(loop: TickerLoop, action: str) -> None:
    before = ledger(loop)
    arguments = ("promote", challenger(loop)) if action == "promote" else ("rollback",)
    done = loop.call("models", *arguments, "--reason", "a test", "--expected-epoch", "999")
    assert done.returncode == 3 and f"epoch is {champion(loop)['epoch']}, not 999" in " ".join(done.stderr.split())
    assert ledger(loop) == before


def test_verify_finds_a_row_that_was_forged(loop: TickerLoop) -> None:
    rows = len(ledger(loop))
    done = loop.call("models", "verify")
    assert (done.returncode, done.stdout) == (0, f"{rows} rows, 0 problems\n")
    loop.execute(FORGE, "UPDATE ledger SET reason = 'forged ' || reason WHERE epoch = 2")
    done = loop.call("models", "verify")
    assert done.returncode == 1
    assert done.stdout == f"row 2: its content was changed after it was written\n{rows} rows, 1 problems\n"
    loop.execute(FORGE, "UPDATE ledger SET reason = substr(reason, 8) WHERE epoch = 2")
    assert loop.call("models", "verify").returncode == 0


def test_verify_finds_that_the_last_row_is_gone(loop: TickerLoop) -> None:
    last = ledger(loop)[-1]
    loop.execute(FORGE, "DELETE FROM ledger WHERE epoch = (SELECT max(epoch) FROM ledger)")
    done = loop.call("models", "verify")
    assert done.returncode == 1
    assert f"row {last['epoch']}: `models` tells of a {last['action']} of {last['version']}" in done.stdout
