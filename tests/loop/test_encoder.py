"""A model on another encoder than the bundled one: trained, judged, promoted by hand, and served."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from loop.conftest import Bench
from score import shapes
from transformers import RobertaModel

from services.score.worker import Worker
from services.stream.errors import Misconfigured
from services.trainer import run
from services.trainer.promotion import Promoter
from services.trainer.setup import register_bundled


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RoBERTa of random weights, with a tokenizer of whole words."""
    made = tmp_path_factory.mktemp("encoder")
    vocabulary = shapes.tokenizer("roberta", made)
    torch.manual_seed(1)
    RobertaModel(shapes.CONFIGS["roberta"](vocab_size=vocabulary)).save_pretrained(made, safe_serialization=True)
    return made


def test_it_is_trained_judged_promoted_and_served(bench: Bench, folder: Path) -> None:
    bench.settings = msgspec.structs.replace(bench.settings, device="cpu")
    register_bundled(bench.bus)
    outcome = run.train_once(bench.settings, "command", lambda _: None, encoder=str(folder))
    assert not outcome.promoted and outcome.reason.startswith("not enough evidence")
    Promoter(bench.bus, bench.settings.connector("test"), 0).promote(
        outcome.version, actor="ana", reason="a test", evidence={}
    )
    worker = Worker(bench.context("score"))
    worker.start()
    assert worker.current.version == outcome.version
    assert len(worker.current.engine.score(["Profit rose", "利润增长"])) == 2


def test_one_that_is_nowhere_is_said(bench: Bench, tmp_path: Path) -> None:
    bench.settings = msgspec.structs.replace(bench.settings, device="cpu")
    register_bundled(bench.bus)
    with pytest.raises(Misconfigured, match=r"has no model\.safetensors"):
        run.train_once(bench.settings, "command", lambda _: None, encoder=str(tmp_path))
