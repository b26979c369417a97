"""`tickerloop demo`: the loop learns, says so, and what measured it was never shown to it; else it fails."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from system.loop import COMMAND, TickerLoop

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

LABELS = Path(__file__).parents[2] / "services" / "demo" / "labels.jsonl"
SEED = 3
CONFUSED = """
import random, sys
from pathlib import Path
import msgspec
from services.demo import readers, run

honest = readers.read

def read(gateway, predictions, known, aside, seed):
    labels = [label.label for label in known.values() if label.label]
    random.Random(seed).shuffle(labels)
    drawn = iter(labels)
    mixed = {i: msgspec.structs.replace(l, label=next(drawn) if l.label else None) for i, l in known.items()}
    return honest(gateway, predictions, mixed, aside, seed)

readers.read = read
sys.exit(run.main(0, Path(sys.argv[1])))
"""
"""The demo with readers whose answers have nothing to do with the texts."""


def demo(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=os.environ, timeout=300)


def stories() -> dict[str, str]:
    """By id, the story of each text that carries a label."""
    found = (json.loads(line) for line in LABELS.read_text().splitlines())
    return {label["id"]: label.get("copy_of") or label["id"] for label in found if label.get("label")}


def test_the_loop_learns_from_its_readers(folder: Path) -> None:
    data = folder / "demo"
    done = demo(*COMMAND[1:], "demo", "--data", str(data), "--seed", str(SEED))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    assert "the loop learned in" in done.stdout
    report: dict[str, Any] = json.loads((data / "report.json").read_text())
    assert report["before"]["n"] == report["after"]["n"] >= 250
    assert report["after"]["rate"] > report["before"]["rate"] and report["p_value"] < 0.05
    assert report["gained"] - report["lost"] == report["after"]["right"] - report["before"]["right"]
    assert sum(after["n"] for _, after in report["by_part"].values()) == report["after"]["n"]
    account = report["account"]
    assert {name: account[name] for name in report["expected"]} == report["expected"]
    assert account["taken"] == len(LABELS.read_text().splitlines())
    assert account["dead"] > 0 and account["rejected"] > 0 and account["duplicate"] > 0
    assert report["windows"] > 0 and report["corrections"] > 0 and report["confirmations"] > 0
    assert report["ledger"]["action"] == "promote" and report["ledger"]["actor"] == "trainer"
    assert report["ledger_problems"] == []
    assert report["hostile"]["held"] == report["hostile"]["words"] == 90
    assert any(reason.startswith("burst") for reason in report["hostile"]["reasons"])
    assert report["ledger"]["version"] == report["model_after"] != report["model_before"]
    assert report["fresh"]["texts"] == report["fresh"]["by_new_model"] > 0
    assert {"clean", "score", "store", "feedback", "trainer"} <= report["services"].keys()
    page = (data / "report.html").read_text()
    assert "The loop learned" in page and page.count("<svg") == 2 and "<script" not in page
    assert (data / "disposable").exists()
    _measured_by_nothing_it_saw(data, report)


def _measured_by_nothing_it_saw(data: Path, report: dict[str, Any]) -> None:
    known = stories()
    every = sorted(set(known.values()))
    aside = set(random.Random(SEED).sample(every, len(every) // 4))
    with TickerLoop(data) as loop:
        learned = loop.rows(
            "SELECT DISTINCT t.external_id FROM example e JOIN text t USING (text_id) WHERE e.role = 'operator'"
        )
        copied = loop.rows("SELECT external_id FROM text WHERE cluster IN (SELECT cluster FROM example)")
        scored = loop.rows("SELECT t.external_id FROM prediction JOIN text t USING (text_id)")
    assert len(learned) == report["corrections"] + report["confirmations"]
    assert not {known[i] for (i,) in learned + copied} & aside
    assert report["after"]["n"] + report["fresh"]["texts"] == sum(known.get(i) in aside for (i,) in scored)


def test_readers_who_say_anything_teach_nothing_and_the_demo_fails(folder: Path) -> None:
    done = demo("-c", CONFUSED, str(folder / "demo"))
    assert done.returncode == 1, done.stdout[-4000:] + done.stderr
    assert "the loop did not learn" in done.stdout
    report = json.loads((folder / "demo" / "report.json").read_text())
    assert report["ledger"]["action"] == "refuse" and report["model_after"] is None
    assert "The loop did not learn" in (folder / "demo" / "report.html").read_text()


def test_the_demo_leaves_a_folder_of_someone_elses_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    done = demo(*COMMAND[1:], "demo", "--data", str(tmp_path))
    assert done.returncode == 3 and "left alone" in done.stderr and "Traceback" not in done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]
