"""`tickerloop models report`: for the terminal, for a script, and as a page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from loop.conftest import Bench

from services.cli import main
from services.score import artifact
from services.score.artifact import Calibration
from services.trainer import report
from services.trainer.registry import Version
from services.trainer.setup import register_bundled


def call(bench: Bench, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["models", "report", *arguments], env=bench.settings.environment())


def add(bench: Bench, version: str, card: dict[str, object]) -> None:
    bench.rows(
        "INSERT INTO model_version (version, card, files, created) VALUES (%s, %s, '{}', 1) RETURNING 1",
        version, json.dumps(card),
    )  # fmt: skip


@pytest.fixture
def calibration(bench: Bench) -> Calibration:
    """The bundled model's, which is registered."""
    register_bundled(bench.bus)
    found = artifact.load(artifact.bundled()).card.calibration
    assert found is not None
    return found


def test_it_tells_what_the_card_says(bench: Bench, calibration: Calibration, tmp_path: Path) -> None:
    version = artifact.load(artifact.bundled()).card.version
    said = call(bench, version)
    assert said.exit_code == 0, said.output
    words = " ".join(said.stdout.split())
    assert f"Model {version}" in words and "the champion" in words and "tfns_valid_accuracy 87.6%" in words
    assert f"Expected calibration error {calibration.ece:.1%} on {calibration.texts} held-out texts" in words
    assert f"below {calibration.threshold}, to answer 90% of texts" in words
    assert said.stdout.count("┃") == len(calibration.bins) + 1, "a bar for each bin, and what it means"

    found = json.loads(call(bench, version, "--json").stdout)
    assert (found["version"], found["champion"]) == (version, True)
    assert found["calibration"]["ece"] == calibration.ece
    assert len(found["calibration"]["bins"]) == len(calibration.bins)

    page = tmp_path / "report.html"
    written = call(bench, version, "--json", "--html", str(page))
    assert json.loads(written.stdout) == found and "report.html" in written.stderr
    html = page.read_text(encoding="utf-8")
    assert html.count("<svg") == 1 and "<script" not in html and "src=" not in html


def test_a_model_without_calibration_never_abstains(bench: Bench) -> None:
    add(bench, "old", {"metrics": {"anchor_accuracy": 0.5}, "temperature": 1.0, "labels": []})
    assert "never abstains" in " ".join(call(bench, "old").stdout.split())
    assert json.loads(call(bench, "old", "--json").stdout)["calibration"] is None


def test_what_cannot_be_reported_is_one_line(bench: Bench) -> None:
    add(bench, "odd", {"labels": []})
    for version, words in (("odd", "card of model odd can't be read"), ("none", "there is no model none")):
        refused = call(bench, version)
        assert refused.exit_code == 3 and words in " ".join(refused.stderr.split())


def test_a_page_holds_no_markup_of_a_model() -> None:
    hostile = "<script>alert(1)</script>[red]"
    card = {"metrics": {hostile: 0.5}, "temperature": 1.0}
    html = report.page(report.of(Version(hostile, hostile, card, 1, champion=False, shadow=False)))
    assert "<script" not in html and html.count("&lt;script&gt;") == 4
