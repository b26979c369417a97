"""Of several GPUs each worker takes its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.runtime import Context
from services.score import device, worker
from services.score.device import VISIBLE, take_one
from services.settings import Settings
from services.stream.errors import Fatal


@pytest.mark.parametrize(
    ("here", "named", "slot", "seen"),
    [
        (0, None, 0, None),
        (1, None, 3, None),
        (2, None, 0, "0"),
        (2, None, 1, "1"),
        (2, None, 2, "0"),
        (8, "6,GPU-1f", 1, "GPU-1f"),
        (8, "5", 2, "5"),
        (8, "", 1, ""),
    ],
)
def test_a_worker_sees_the_gpu_of_its_slot(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, here: int, named: str | None, slot: int, seen: str | None
) -> None:
    monkeypatch.setattr(device, "GPUS", tmp_path)
    for number in range(here):
        (tmp_path / f"0000:0{number}:00.0").mkdir()
    environment = {} if named is None else {VISIBLE: named}
    take_one(slot, environment)
    assert environment.get(VISIBLE) == seen


def test_a_worker_takes_its_gpu_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load(_: Context) -> None:
        raise Fatal(f"loads on GPU {os.environ[VISIBLE]}")

    monkeypatch.setattr(device, "GPUS", tmp_path)
    for number in range(2):
        (tmp_path / str(number)).mkdir()
    monkeypatch.setenv(VISIBLE, "5,7")  # what the worker sets is put back
    monkeypatch.setattr(worker, "Worker", load)
    with pytest.raises(Fatal, match="loads on GPU 7"):
        worker.serve(Context(Settings(database=""), "score", 1))


def test_a_worker_is_there_before_torch() -> None:
    """CUDA looks once, when torch wakes it."""
    code = "import sys, services.score.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0
