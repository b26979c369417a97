"""One setting decides where models are cached: for the score worker, for the trainer, and where it is not given."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from loop.conftest import Bench
from loop.makers import clean_text, prediction, published

from services import store
from services.runtime import Context
from services.score import artifact
from services.score.base import Encoding, exported, find
from services.score.worker import Worker
from services.settings import Settings
from services.trainer import run
from services.trainer.setup import register_bundled


@pytest.fixture
def cached(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A deployment whose `models` holds the exported encoder, while the user's cache folder holds nothing."""
    export = exported(Encoding(find(), artifact.load(artifact.bundled()).adapter)).parent
    shutil.copytree(export, tmp_path / "models" / export.name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    bench.settings = msgspec.structs.replace(bench.settings, models=str(tmp_path / "models"), device="cpu")
    register_bundled(bench.bus)
    return bench


def test_the_score_worker_uses_it(cached: Bench, tmp_path: Path) -> None:
    worker = Worker(Context(cached.settings, "score"))
    worker.start()
    assert (tmp_path / "models" / worker.current.version).is_dir()
    assert not (tmp_path / "elsewhere").exists()


def test_the_trainer_uses_it(cached: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Opened(Exception):
        pass

    def challenge(*_: Any) -> None:
        raise Opened

    monkeypatch.setattr(run, "challenge", challenge)
    cached.bus.publish([clean_text("b"), published(prediction("b"))])
    cached.run(store.serve, lambda: cached.caught_up(store.GROUP, *store.TOPICS))
    cached.rows(
        "INSERT INTO example (example_id, feedback_id, prediction_id, text_id, cluster, predicted, label, model, epoch,"
        " annotator, sampled, holdout, given)"
        " VALUES ('e', 'f', 'p', 'b', 'b', 'neutral', 'positive', 'm1', 1, 'ana', false, false, 1) RETURNING 1"
    )
    with pytest.raises(Opened):
        run.train_once(cached.settings, "test", lambda _: None)
    assert not (tmp_path / "elsewhere").exists()


def test_without_it_all_data_folders_share_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, second = (Settings(database="", data=data) for data in ("a", "b"))
    assert first.model_cache == second.model_cache == tmp_path / "tickerloop"
    assert Settings(database="", models="there").model_cache == Path("there")
