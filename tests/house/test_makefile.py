"""`make setup` on a machine that was not ready for it at first."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = """#!/bin/sh
# Stands for a system's Python: makes an environment whose pip works, and says so.
[ "$1 $2" = "-m venv" ] || exit 0
for folder; do :; done
echo "$@" >> made
mkdir -p "$folder/bin"
printf '#!/bin/sh\\n' > "$folder/bin/python"
chmod +x "$folder/bin/python"
"""

WITHOUT_PIP = """#!/bin/sh
[ "$2" != pip ]
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_an_environment_that_was_half_made_is_made_again(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    broken = tmp_path / ".venv" / "bin" / "python"
    broken.parent.mkdir(parents=True)
    for script, text in ((broken, WITHOUT_PIP), (tmp_path / "python", PYTHON)):
        script.write_text(text)
        script.chmod(0o755)
    for _ in range(2):
        done = subprocess.run(["make", "setup", "PYTHON=./python"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (tmp_path / ".venv" / ".ready").unlink()
    assert (tmp_path / "made").read_text() == "-m venv --clear .venv\n", "once, and not again where it works"
