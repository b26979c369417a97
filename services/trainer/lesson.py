"""What is to be said of which text, and how much that counts: people's labels, and what keeps a challenger from
forgetting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from services.score.engine import Engine
from services.stream.events import LABELS, derived_id
from services.trainer.dataset import Dataset, one_hot
from services.trainer.edits import EDITS

TUNED_LIVE: Final = 200
"""Live texts that an encoder learns to keep the parent's answers on: more of them take time and tell little more."""
WATCHED: Final = 8
"""Of so many clusters that people or the anchor set label, one is watched while an encoder is tuned, not learned."""


class Lesson(NamedTuple):
    """n texts, what is to be said of them, and how much each counts."""

    texts: Sequence[str]
    targets: np.ndarray
    """float32[n, 3], rows summing to 1."""
    weights: np.ndarray
    """float32[n], relative."""

    def part(self, chosen: np.ndarray) -> Lesson:
        """Those of bool[n]."""
        texts = [text for text, taken in zip(self.texts, chosen, strict=True) if taken]
        return Lesson(texts, self.targets[chosen], self.weights[chosen])


def lesson(engine: Engine, data: Dataset) -> Lesson:
    """People's labels, the replayed anchors and the parent's own answers to live texts, in this order."""
    labelled = [*data.learn, *data.replay]
    # The parent's answers at temperature 1: at them, its own head has nothing to learn.
    head, live = engine.model.head, [text.text for text in data.live]
    answers = head.probabilities(engine.embed(live), 1.0) if live else np.zeros((0, len(LABELS)))
    weights = np.array([*(e.weight for e in labelled), *(t.weight for t in data.live)], np.float32)
    texts = [*(example.text for example in labelled), *live]
    return Lesson(texts, np.concatenate([one_hot(labelled), answers.astype(np.float32)]), weights)


def watched(data: Dataset) -> np.ndarray:
    """bool over the texts of `lesson`: those that early stopping looks at. By cluster, so that no copy of one is
    learned; never a held-out one, which is the gate's."""
    labelled = [*data.learn, *data.replay]
    chosen = [
        int(derived_id("watched", example.cluster or example.example_id)[:8], 16) % WATCHED == 0 for example in labelled
    ]
    return np.array([*chosen, *(False for _ in data.live)], bool)


def to_tune(taught: Lesson, apart: np.ndarray, people: int, anchors: int, replay: float) -> Lesson:
    """What of it an encoder learns: what isn't `apart`, with `replay` times the weight of its anchors, which come after
    what people labelled, and with the first live texts, which weigh as much as all."""
    weights, first = taught.weights.copy(), people + anchors
    live = len(weights) - first
    weights[people:first] *= replay
    weights[first:] *= live / max(1, min(live, TUNED_LIVE))
    taken = np.arange(len(weights)) < first + TUNED_LIVE
    return taught._replace(weights=weights).part(taken & ~apart)


def edited(taught: Lesson) -> Lesson:
    """The same and, of each text, one edit that keeps its label, where there is one that changes it; together they
    count as much as the text did."""
    kinds = list(EDITS.values())
    new = [kinds[number % len(kinds)](text) for number, text in enumerate(taught.texts)]
    changed = np.array([edit != text for edit, text in zip(new, taught.texts, strict=True)], bool)
    edits = taught._replace(texts=new).part(changed)
    halved = np.where(changed, taught.weights / 2, taught.weights).astype(np.float32)
    return Lesson(
        [*taught.texts, *edits.texts],
        np.concatenate([taught.targets, edits.targets]),
        np.concatenate([halved, edits.weights / 2]).astype(np.float32),
    )
