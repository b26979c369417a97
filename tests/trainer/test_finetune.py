"""Fine-tuning from a parent, on a tiny BERT: by low rank and whole, stopped early, killed and gone on with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from score import shapes
from transformers import BertModel

from services.score.adapter import Adapter
from services.score.base import Base, Encoding, find
from services.score.engine import embed, open_runtime
from services.score.head import Head
from services.trainer.checkpoint import FOLDER, Checkpoint, forget
from services.trainer.head import fit, seeded
from services.trainer.learner import Learner, Tuned
from services.trainer.lesson import Lesson
from services.trainer.sampler import POOL, Place, Sampler
from services.trainer.tune import Plan, Progress, tune

WORDS = ("gain", "loss", "not", "report", "bank", "oil", "today", "shares")
RANDOM = np.random.default_rng(4)
FULL = Plan(epochs=3, batch=16, rate=2e-3, head_rate=3e-3, dropout=0.1)
LORA = FULL._replace(rank=4, rate=1e-2)
METHODS = pytest.mark.parametrize("plan", [FULL, LORA], ids=["full", "lora"])


class Killed(BaseException):
    """Stands for a kill -9: nothing after it happens."""


def lesson(n: int) -> Lesson:
    """`not` before a gain or a loss turns it: no sum over words can tell."""
    texts, labels = [], []
    for _ in range(n):
        filler = list(RANDOM.choice(WORDS[3:], 3))
        word, turned = RANDOM.choice(("gain", "loss")), bool(RANDOM.random() < 0.5)
        at = int(RANDOM.integers(0, 4))
        texts.append(" ".join([*filler[:at], *(["not"] if turned else []), word, *filler[at:]]))
        labels.append(2 if (word == "gain") != turned else 0)
    return Lesson(texts, np.eye(3, dtype=np.float32)[labels], np.ones(n, np.float32))


LEARN, WATCH, MEASURE = lesson(480), lesson(60), lesson(200)
FEW = LEARN.part(np.arange(480) < 160)
"""Ten steps an epoch."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    made = tmp_path_factory.mktemp("bert")
    vocabulary = shapes.tokenizer("bert", made, WORDS)
    torch.manual_seed(2)
    BertModel(shapes.CONFIGS["bert"](vocab_size=vocabulary)).save_pretrained(made, safe_serialization=True)
    return find(str(made))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def head(base: Base, cache: Path) -> Head:
    features = embed(open_runtime(Encoding(base), device="cpu", cache=cache), LEARN.texts)
    return fit(features, LEARN.targets, LEARN.weights, seed=1)


@pytest.fixture(scope="module")
def parent(base: Base, head: Head) -> tuple[Adapter, Head]:
    """What a first run came to."""
    tuned = tune(base, head, LEARN, plan=FULL._replace(epochs=2), seed=1)
    return tuned.adapter(8), tuned.head


def right(base: Base, adapter: Adapter, head: Head, cache: Path) -> float:
    answers = head.logits(embed(open_runtime(Encoding(base, adapter), device="cpu", cache=cache), MEASURE.texts))
    return float(np.mean(answers.argmax(axis=1) == MEASURE.targets.argmax(axis=1)))


def run(base: Base, parent: tuple[Adapter, Head], plan: Plan, learn: Lesson = FEW, **more: Any) -> Tuned:
    adapter, head = parent
    return tune(base, head, learn, plan=plan, seed=1, adapter=adapter, **more)


def same(one: Tuned, other: Tuned) -> bool:
    changes = all(np.array_equal(change, other.changes[name]) for name, change in one.changes.items())
    return changes and all(np.array_equal(a, b) for a, b in zip(one.head, other.head, strict=True))


@METHODS
def test_it_goes_on_from_its_parent_and_gets_better(
    base: Base, parent: tuple[Adapter, Head], cache: Path, plan: Plan
) -> None:
    before = right(base, *parent, cache)
    tuned = run(base, parent, plan._replace(epochs=6, dropout=0.0), LEARN)
    after = right(base, tuned.adapter(8), tuned.head, cache)
    assert after > max(0.9, before + 0.02)


@METHODS
def test_before_its_first_step_it_answers_as_its_parent(base: Base, parent: tuple[Adapter, Head], plan: Plan) -> None:
    adapter, head = parent
    ids, mask = torch.tensor([[0, 7, 5, 9, 2]]), torch.ones(1, 5, dtype=torch.int64)
    learner = Learner(base, adapter, head, plan.rank).eval()
    wanted = head.logits(Learner(base, adapter, head).eval().features(ids, mask).detach().numpy())
    assert np.allclose(learner(ids, mask, 0.0).detach().numpy(), wanted, atol=1e-5)
    start = learner.tuned()
    assert start.changes.keys() >= adapter.keys()
    for name, pair in adapter.items():
        change = start.changes[name]
        assert np.allclose(change, pair.added_to(np.zeros_like(change)), atol=1e-6)


def test_low_rank_changes_matrices_by_its_rank_and_nothing_else(base: Base, head: Head) -> None:
    tuned = tune(base, head, FEW, plan=LORA._replace(epochs=1), seed=1)
    assert len(tuned.changes) == 3 * 6
    for name, change in tuned.changes.items():
        assert name.endswith(".weight") and change.ndim == 2 and np.abs(change).max() > 0
        assert np.linalg.matrix_rank(change, tol=1e-6) == LORA.rank


def test_a_batch_in_parts_makes_the_same_step(base: Base, parent: tuple[Adapter, Head]) -> None:
    plan = LORA._replace(epochs=1, dropout=0.0)
    quiet = base._replace(folder=_without_dropout(base))
    whole, parts = (run(quiet, parent, plan._replace(parts=n)) for n in (1, 3))
    for name, change in whole.changes.items():
        assert np.allclose(change, parts.changes[name], atol=1e-4)
    assert not same(whole, run(quiet, parent, plan._replace(batch=5)))


def _without_dropout(base: Base) -> Path:
    folder = base.folder.with_name("no-dropout")
    folder.mkdir(exist_ok=True)
    for file in base.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_what_was_best_on_the_watched_texts_is_kept_and_ends_the_run(base: Base, parent: tuple[Adapter, Head]) -> None:
    told: list[Progress] = []
    plan = LORA._replace(epochs=30)
    tuned = run(base, parent, plan, watched=WATCH, progress=told.append)
    assert 0 < tuned.epoch < 30 and told[-1].step == told[-1].steps * (tuned.epoch + plan.patience) // 30


def test_a_run_that_only_spoils_gives_its_start(base: Base, parent: tuple[Adapter, Head]) -> None:
    adapter, head = parent
    wrong = LEARN._replace(targets=LEARN.targets[:, ::-1].copy())
    tuned = tune(base, head, wrong, plan=LORA, seed=1, adapter=adapter, watched=WATCH)
    assert tuned.epoch == 0 and same(tuned, Learner(base, adapter, head, LORA.rank).tuned())


def test_every_index_comes_once_an_epoch_and_a_place_can_be_taken_up() -> None:
    lengths = [3 + number % 17 for number in range(2 * POOL + 7)]
    with seeded(1):
        sampler = Sampler(lengths, 2)
        sampler.begin()
        batches, places = [], []
        for batch in sampler:
            batches.append(batch)
            places.append((msgspec.json.encode(sampler.place), torch.get_rng_state()))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for number, (place, random) in enumerate(places):
        with seeded(2):
            torch.set_rng_state(random)
            again = Sampler(lengths, 2)
            again.place = msgspec.json.decode(place, type=Place)
            assert list(again) == batches[number + 1 :]


def checkpoint(folder: Path, every_s: float = 0.0, **other: object) -> Checkpoint:
    made_of = {"dataset": "d", "parent": "p", "plan": LORA._asdict(), "seed": 1, "device": "cpu"}
    return Checkpoint(folder, made_of | other, every_s)


def killed_at(step: int) -> Callable[[Progress], None]:
    def progress(at: Progress) -> None:
        if at.step == step:
            raise Killed

    return progress


@METHODS
def test_a_run_that_was_killed_ends_as_one_that_was_not(
    base: Base, parent: tuple[Adapter, Head], plan: Plan, tmp_path: Path
) -> None:
    plan = plan._replace(patience=3)  # and so as long as it may be
    whole = run(base, parent, plan, watched=WATCH)
    for step in (2, 7, 10, 11, 19, 28):
        with pytest.raises(Killed):
            run(base, parent, plan, watched=WATCH, checkpoint=checkpoint(tmp_path), progress=killed_at(step))
        state = checkpoint(tmp_path).load()
        assert state is not None and state.facts["step"] == step - 1
    assert same(whole, run(base, parent, plan, watched=WATCH, checkpoint=checkpoint(tmp_path)))
    told: list[Progress] = []
    again = run(base, parent, plan, watched=WATCH, checkpoint=checkpoint(tmp_path), progress=told.append)
    assert same(whole, again) and not told, "a run that was over has nothing left to do"


def test_only_the_same_run_is_gone_on_with(base: Base, parent: tuple[Adapter, Head], tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(base, parent, LORA, checkpoint=checkpoint(tmp_path), progress=killed_at(5))
    assert checkpoint(tmp_path).load() is not None
    for other in ({"dataset": "e"}, {"parent": "q"}, {"plan": FULL._asdict()}, {"seed": 2}, {"device": "cuda"}):
        assert checkpoint(tmp_path, **other).load() is None
    forget(tmp_path)
    assert checkpoint(tmp_path).load() is None


def test_a_checkpoint_is_whole_or_not_there(
    base: Base, parent: tuple[Adapter, Head], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Killed):
        run(base, parent, LORA, checkpoint=checkpoint(tmp_path), progress=killed_at(5))
    (file,) = (tmp_path / FOLDER).iterdir()
    content = file.read_bytes()
    file.with_suffix(".partial").write_bytes(content[:1000])  # a kill in the middle of writing the next one
    assert checkpoint(tmp_path).load() is not None
    file.write_bytes(content[: len(content) // 2])  # a disk that lies
    whole = run(base, parent, LORA)
    assert same(whole, run(base, parent, LORA, checkpoint=checkpoint(tmp_path)))
    assert "can't be read" in caplog.text


def test_it_is_written_every_so_often(base: Base, parent: tuple[Adapter, Head], tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(base, parent, LORA, checkpoint=checkpoint(tmp_path, every_s=3600.0), progress=killed_at(5))
    assert checkpoint(tmp_path).load() is None
