"""A desk on texts from a seed: 3,000, a tenth of them about one ticker of 40."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from ops.bench.learning.desk import HARD, Looking, Says, Text, labelled
from services.feedback.quarantine import Finding
from services.feedback.trust import Judgement, Word

TEXTS = 3_000
TARGET = "TGT.NS"
LOOKS = 6
"""Times that the loop looks while the words come in."""


class Desk(NamedTuple):
    words: list[Word]
    truths: dict[str, int]
    """By story."""


def labels(readers: dict[str, Says], seed: int) -> Desk:
    rng = random.Random(seed)
    texts = [_text(rng, n) for n in range(TEXTS)]
    return Desk(labelled(texts, readers, rng), {text.name: text.label for text in texts})


def _text(rng: random.Random, n: int) -> Text:
    ticker = TARGET if rng.random() < 0.1 else f"T{rng.randrange(39)}"
    label = rng.choices([0, 1, 2], [0.3, 0.4, 0.3])[0]
    return Text(f"text{n:05}", label, ticker, ticker == TARGET, rng.random() < HARD)


def looked(words: Sequence[Word], looks: int = LOOKS) -> tuple[Judgement, list[Finding]]:
    looking = Looking()
    for look in range(1, looks):
        looking.look(words[: len(words) * look // looks])
    return looking.look(words), [*looking.found.values()]


class Taught(NamedTuple):
    """Of what a set teaches: the share that is right by weight, the same on the target alone, and the right weight."""

    right: float
    on_target: float
    weight: float


def taught(desk: Desk, judgement: Judgement) -> Taught:
    return _taught(desk, {c.item: (c.label, c.weight) for c in judgement.consensus})


def believing_everyone(desk: Desk) -> Taught:
    """Without trust: the last word on each text counts in full."""
    return _taught(desk, {w.item: (w.label, 1.0) for w in desk.words if w.truth is None})


def _taught(desk: Desk, labels: dict[str, tuple[int, float]]) -> Taught:
    target = {w.item for w in desk.words if TARGET in w.tickers}
    right = {item: weight * (label == desk.truths[item]) for item, (label, weight) in labels.items()}
    on = [item for item in labels if item in target]
    return Taught(
        sum(right.values()) / sum(weight for _, weight in labels.values()),
        sum(right[item] for item in on) / sum(labels[item][1] for item in on),
        sum(right.values()),
    )
