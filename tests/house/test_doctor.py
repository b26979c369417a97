"""How the doctor reads what other programs say of themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from services import doctor


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ('openjdk version "17.0.13" 2024-10-15\nOpenJDK Runtime Environment', 17),
        ('java version "1.8.0_292"', 8),
        ('openjdk version "21" 2023-09-19', 21),
        ('Picked up JAVA_TOOL_OPTIONS: -Xmx1g\nopenjdk version "11.0.2" 2019-01-15', 11),
        ("The operation couldn't be completed. Unable to locate a Java Runtime.", 0),
    ],
)
def test_java_says_its_version_in_more_than_one_way(said: str, version: int) -> None:
    assert doctor.java_version(said) == version


@pytest.mark.parametrize(("version", "recent"), [("11.0.2", False), ("17.0.1", True)])
def test_a_java_too_old_for_a_broker_is_as_good_as_none(
    version: str, recent: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2019' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert (doctor.recent_java() == str(java)) is recent
    check = next(check for check in doctor.examine() if check.name.startswith("Java"))
    assert check.ok is recent
    assert recent or (version in check.finding and "apt-get install openjdk-17" in check.remedy)


@pytest.mark.parametrize("name", doctor.CHROMIUM)
def test_chromium_goes_by_several_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_text("#!/bin/sh\n")
    (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.chromium() == str(tmp_path / name)
