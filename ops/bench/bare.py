"""The engine alone, in a process of its own: `python -m ops.bench.bare TEXTS.json` prints seconds for all texts."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec

from ops.bench.common import ROOT
from services.score import artifact
from services.score.engine import open_engine

if __name__ == "__main__":
    texts = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=list[str])
    engine = open_engine(artifact.bundled(), cache=ROOT / "var" / "models")
    engine.score(texts[:500])
    started = time.monotonic()
    engine.score(texts)
    print(time.monotonic() - started)
