"""One runtime over the bundled encoder per test session; the export is the real one, in the user's own cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from services.score import artifact
from services.score.artifact import Model
from services.score.engine import Engine, Runtime, open_engine
from services.score.head import Head


@pytest.fixture(scope="session")
def engine() -> Engine:
    return open_engine(artifact.bundled(), device="cpu")


@pytest.fixture(scope="session")
def runtime(engine: Engine) -> Runtime:
    return engine.runtime


@pytest.fixture(scope="session")
def stubborn(engine: Engine) -> Model:
    """A model that calls everything positive, whatever it reads: its answers can't be mistaken for another's."""
    head = engine.model.head._replace(
        weights=np.zeros_like(engine.model.head.weights), bias=np.array([0, 0, 9], np.float32)
    )
    return make_model(engine, head)


def make_model(engine: Engine, head: Head) -> Model:
    texts = ["Profit fell", "Profit rose"]
    return artifact.make(
        head,
        1.0,
        engine.runtime.encoding,
        dataset="test",
        parent=engine.card.version,
        metrics={},
        examples=dict(zip(texts, engine.embed(texts), strict=True)),
        languages=("en",),
    )


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The bundled model's files in a folder where they may be damaged."""
    folder = tmp_path / "model"
    artifact.save(artifact.load(artifact.bundled()), folder)
    return folder
