"""What the documentation shows works, and every setting says what it means."""

from __future__ import annotations

import ast
import re
import subprocess
import textwrap
from pathlib import Path
from typing import Any, Final

import click
import pytest
from click.testing import CliRunner

from services import ingest
from services.cli import main
from services.gateway.limits import PREFIX as LIMITS
from services.settings import PREFIX
from services.stream import topics
from services.stream.events import RawText, decode

ROOT: Final = Path(__file__).parents[2]
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(text: str) -> list[str]:
    """The indented blocks of a text, blank lines within them kept."""
    return [textwrap.dedent(found) for found in re.findall(r"(?:^ {4}.*\n(?:\n(?= {4}))?)+", text, re.MULTILINE)]


@pytest.mark.parametrize("text", [README, ingest.__doc__], ids=["README", "services/ingest"])
def test_the_crawler_shown_sends_what_cleaning_takes(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, bytes]] = []

    class Producer:
        def __init__(self, bootstrap_servers: str) -> None:
            pass

        def send(self, topic: str, value: bytes) -> None:
            sent.append((topic, value))

        def flush(self) -> None:
            sent.append(("flushed", b""))

    monkeypatch.setattr("kafka.KafkaProducer", Producer)
    (block,) = [block for block in _blocks(text) if "KafkaProducer(" in block]
    exec(block, {})  # noqa: S102 (the documentation's own code)
    (topic, value), flushed = sent
    assert (topic, flushed) == (topics.RAW, ("flushed", b""))
    raw = decode(RawText, value)
    assert raw.text and raw.id and raw.published and raw.source != "unknown"


@pytest.mark.parametrize(
    ("path", "name"), [("services/settings.py", "Settings"), ("services/gateway/limits.py", "Limits")]
)
def test_every_setting_says_what_it_means(path: str, name: str) -> None:
    (kind,) = [
        node
        for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == name
    ]
    silent = [
        field.target.id
        for field, after in zip(kind.body, [*kind.body[1:], None], strict=True)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and not _is_text(after)
    ]
    assert silent == []
    assert f"`{path}`" in README


def _is_text(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def test_every_command_shown_exists() -> None:
    shown = re.findall(r"^(?:[A-Z_]+=\S+ )*tickerloop (.+?)(?: #|$)", "\n".join(_blocks(README)), re.MULTILINE)
    assert {words.split()[0] for words in shown} >= {"up", "ingest", "status", "dlq", "replay", "run", "train"}
    for words in shown:
        name, *rest = words.split()
        command = main.commands[name]
        if isinstance(command, click.Group) and rest and not (command.invoke_without_command and rest[0][0] == "-"):
            command = command.commands[rest.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= known, words


def test_the_readme_names_both_prefixes() -> None:
    assert f"`{PREFIX}…`" in README
    assert f"`{LIMITS}…`" in README


def test_a_bad_setting_is_one_line_before_anything_starts(tmp_path: Path) -> None:
    bad = {"TICKERLOOP_LOG_LEVEL": "loud", "TICKERLOOP_DATA": str(tmp_path / "var")}
    answer = CliRunner().invoke(main, ["up"], env=bad)
    assert answer.exit_code == 3
    assert "log_level" in answer.output
    assert not (tmp_path / "var").exists()


def test_no_link_of_the_documents_leads_nowhere() -> None:
    tracked = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    links = [
        (name, link) for name in tracked.split() for link in re.findall(r"\]\(([^)#]+)", (ROOT / name).read_text())
    ]
    assert links
    dead = [
        (name, link) for name, link in links if "://" not in link and not (ROOT / name).parent.joinpath(link).exists()
    ]
    assert not dead
