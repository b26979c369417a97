"""Fit a head on fixed features: seconds on a CPU, the same result for the same input and seed.

The trainer's own loop and the bundled model's recipe both learn with `fit`; they differ in the examples, in their
weights and in whether they start from a parent. Importing this imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

import numpy as np
import torch
from torch.nn.functional import dropout, log_softmax, relu

from services.score.head import Head

HIDDEN: Final = 256


class Schedule(NamedTuple):
    """How long and how fast. The rate falls linearly to nought; `decay` pulls towards the start, per unit of rate."""

    epochs: int = 8
    batch: int = 256
    rate: float = 1e-3
    decay: float = 1.0
    dropout: float = 0.5
    """Of the features and of the hidden units: a fresh head has more features than examples to tell them apart by."""
    floor: float = 1e-8
    """Adam's ε: gradients far below it move nothing."""


FRESH: Final = Schedule()
TUNE: Final = Schedule(epochs=10, batch=64, rate=3e-4, dropout=0.0, floor=1e-4)
"""From a parent: small steps over few examples. At the parent, its own answers must pull nowhere. With dropout they
would, and with the usual ε Adam would blow the rounding errors of a gradient of nought up to whole steps.
"""


def fit(
    features: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    *,
    init: Head | None = None,
    seed: int = 0,
    schedule: Schedule | None = None,
) -> Head:
    """Minimise the weighted mean cross-entropy between targets and answers.

    Args:
        features: float32[n, d]. targets: float32[n, 3], rows summing to 1: one-hot for people's labels, a model's own
        (temperature 1) answers for
            texts on which it is to stay as it is.
        weights: float32[n], relative.
        init: the parent; decay then pulls towards it instead of towards nought, and its standardisation is kept.
        seed: of the initial weights, the order of the examples and the dropout.
        schedule: `TUNE` with a parent and `FRESH` without one, unless given.

    Raises:
        ValueError: no examples, or arrays whose lengths differ.
    """
    if not len(features) == len(targets) == len(weights) or not len(features):
        raise ValueError(f"{len(features)} features, {len(targets)} targets and {len(weights)} weights")
    plan = schedule or (TUNE if init else FRESH)
    start = init or _fresh(features, seed)
    x = torch.from_numpy(((features - start.mean) / start.scale).astype(np.float32))
    y = torch.from_numpy(np.asarray(targets, np.float32))
    w = torch.from_numpy((weights / weights.mean()).astype(np.float32))
    origin = [torch.from_numpy(array) for array in start[2:]]
    learned = [tensor.clone().requires_grad_() for tensor in origin]
    pulls = [torch.zeros_like(tensor) for tensor in origin] if init is None else origin
    optimizer = torch.optim.Adam(learned, lr=plan.rate, eps=plan.floor)
    steps = plan.epochs * -(-len(x) // plan.batch)
    # On products this small torch's threads mostly wait for each other, where others want the cores ten times as long.
    with seeded(seed), torch_threads(1):
        for step, batch in enumerate(_batches(len(x), plan)):
            rate = optimizer.param_groups[0]["lr"] = plan.rate * (1 - step / steps)
            optimizer.zero_grad()
            loss = -(y[batch] * log_softmax(logits(x[batch], learned, plan.dropout), 1)).sum(1) @ w[batch] / len(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():  # decoupled weight decay (Loshchilov & Hutter 2019), about the starting point
                for tensor, pull in zip(learned, pulls, strict=True):
                    tensor.lerp_(pull, rate * plan.decay)
    return Head(start.mean, start.scale, *(tensor.detach().numpy() for tensor in learned))


def logits(x: torch.Tensor, learned: Sequence[torch.Tensor], share: float) -> torch.Tensor:
    """Of standardised features float[n, d] → float[n, 3]; `learned` are the last four parts of a `Head`, `share` is the
    dropout.
    """
    hidden_weights, hidden_bias, weights, bias = learned
    hidden = relu(dropout(x, share) @ hidden_weights + hidden_bias)
    return dropout(hidden, share) @ weights + bias


def _batches(n: int, plan: Schedule) -> Iterator[torch.Tensor]:
    for _ in range(plan.epochs):
        yield from torch.split(torch.randperm(n), plan.batch)


def _fresh(features: np.ndarray, seed: int) -> Head:
    """Standardising, with weights as He et al. (2015) draw them for ReLU."""
    d = features.shape[1]
    random = np.random.default_rng(seed)
    return Head(
        mean=features.mean(axis=0, dtype=np.float64).astype(np.float32),
        scale=(features.std(axis=0, dtype=np.float64) + 1e-3).astype(np.float32),
        hidden_weights=random.normal(0, (2 / d) ** 0.5, (d, HIDDEN)).astype(np.float32),
        hidden_bias=np.zeros(HIDDEN, np.float32),
        weights=random.normal(0, (1 / HIDDEN) ** 0.5, (HIDDEN, 3)).astype(np.float32),
        bias=np.zeros(3, np.float32),
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's random numbers on the CPU, for the time being."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many threads for torch's products, for the time being. With one a run ends alike on any machine of a kind, and
    others get the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
