"""Tuning on a tiny BERT: it learns what a head alone can't, leaves the rest alone, and repeats itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from score import shapes
from transformers import BertModel

from services.score.base import Base, Encoding, find
from services.score.engine import embed, open_runtime
from services.score.features import Features
from services.score.head import Head
from services.trainer.head import fit
from services.trainer.learner import Tuned
from services.trainer.lesson import Lesson
from services.trainer.tune import Plan, Progress, soup, tune

WORDS = ("gain", "loss", "not", "report", "bank", "oil", "today", "shares")
RANDOM = np.random.default_rng(2)
PLAN = Plan(epochs=6, batch=16, rate=2e-3, head_rate=3e-3, dropout=0.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    made = tmp_path_factory.mktemp("bert")
    vocabulary = shapes.tokenizer("bert", made, WORDS)
    torch.manual_seed(2)
    BertModel(shapes.CONFIGS["bert"](vocab_size=vocabulary)).save_pretrained(made, safe_serialization=True)
    return find(str(made))


def texts(n: int) -> tuple[list[str], np.ndarray]:
    """`not` before a gain or a loss turns it: no sum over words can tell."""
    found, labels = [], []
    for _ in range(n):
        filler = list(RANDOM.choice(WORDS[3:], 3))
        word, turned = RANDOM.choice(("gain", "loss")), bool(RANDOM.random() < 0.5)
        at = int(RANDOM.integers(0, 4))
        found.append(" ".join([*filler[:at], *(["not"] if turned else []), word, *filler[at:]]))
        labels.append(2 if (word == "gain") != turned else 0)
    return found, np.eye(3, dtype=np.float32)[labels]


LEARN, MEASURE = texts(480), texts(200)


def start(base: Base, cache: Path) -> Head:
    features = embed(open_runtime(Encoding(base), device="cpu", cache=cache), LEARN[0])
    return fit(features, LEARN[1], np.ones(len(features), np.float32), seed=1)


def right(base: Base, tuned: Tuned, rank: int, cache: Path) -> float:
    runtime = open_runtime(Encoding(base, tuned.adapter(rank)), device="cpu", cache=cache)
    answers = tuned.head.logits(embed(runtime, MEASURE[0])).argmax(axis=1)
    return float(np.mean(answers == MEASURE[1].argmax(axis=1)))


def run(base: Base, head: Head, seed: int, told: list[Progress] | None = None) -> Tuned:
    weights = np.ones(len(LEARN[0]), np.float32)
    progress = (told if told is not None else []).append
    return tune(base, head, Lesson(*LEARN, weights), plan=PLAN, seed=seed, progress=progress)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def head(base: Base, cache: Path) -> Head:
    return start(base, cache)


@pytest.fixture(scope="module")
def told() -> list[Progress]:
    return []


@pytest.fixture(scope="module")
def tuned(base: Base, head: Head, told: list[Progress]) -> Tuned:
    return run(base, head, 1, told)


def test_it_learns_what_a_head_alone_cannot(base: Base, head: Head, tuned: Tuned, cache: Path) -> None:
    before = right(base, Tuned({}, head), 32, cache)
    after = right(base, tuned, 32, cache)
    assert after > 0.95
    assert after > before + 0.1


def test_a_low_rank_keeps_most_of_it(base: Base, tuned: Tuned, cache: Path) -> None:
    assert right(base, tuned, 8, cache) > 0.9


def test_only_the_layers_change(base: Base, tuned: Tuned) -> None:
    names = {name for name, _ in Features(base.folder, {}, "sdpa", torch.float32).encoder.named_parameters()}
    assert set(tuned.changes) == {name for name in names if name.startswith("encoder.layer.")}


def test_the_same_seed_gives_the_same_model(base: Base, head: Head, tuned: Tuned) -> None:
    again, other = run(base, head, 1), run(base, head, 2)
    for name, change in tuned.changes.items():
        assert np.array_equal(change, again.changes[name])
    assert any(not np.array_equal(change, other.changes[name]) for name, change in tuned.changes.items())
    mean = soup([tuned, other])
    name = "encoder.layer.0.output.dense.weight"
    assert np.allclose(mean.changes[name], (tuned.changes[name] + other.changes[name]) / 2)
    assert np.allclose(mean.head.bias, (tuned.head.bias + other.head.bias) / 2)


def test_progress_counts_down(tuned: Tuned, told: list[Progress]) -> None:
    assert tuned
    assert [at.step for at in told] == list(range(1, told[0].steps + 1))
    assert told[-1].seconds_left == 0 < told[0].seconds_left
    assert told[-1].loss < told[5].loss
