"""What the gate judges: both models' answers to the held-out texts, their slices, edits of them, and the anchor set."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from services.score.engine import Runtime, embed
from services.score.head import Answering
from services.stream.events import LABELS
from services.trainer.dataset import Dataset, Labelled
from services.trainer.edits import EDITS
from services.trainer.gate import Evidence, Pair

EDITED: Final = 300
"""Held-out texts that are edited, the first by id: each costs four more to embed."""


class Side(NamedTuple):
    """One of the two models."""

    runtime: Runtime
    head: Answering
    temperature: float


class Features(NamedTuple):
    """Both encoders' features of the same texts, float32[n, d]; `speed` is the challenger's over the champion's."""

    champion: np.ndarray
    challenger: np.ndarray
    speed: float


def both(champion: Runtime, challenger: Runtime, texts: Sequence[str]) -> Features:
    """Embed texts, once where the encoder is the same; of no texts d is 0."""
    if not texts:
        return Features(np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32), 1.0)
    began = time.perf_counter()
    new = embed(challenger, texts)
    took = time.perf_counter() - began
    if challenger.key == champion.key:
        return Features(new, new, 1.0)
    old = embed(champion, texts)
    return Features(old, new, (time.perf_counter() - began - took) / took)


def gather(champion: Side, challenger: Side, data: Dataset, anchor: Features) -> Evidence:
    """`anchor` are the features of `data.anchor`, whose number and length measure the encoders' speed."""
    texts = [e.text for e in data.measure]
    labels = np.array([e.label for e in data.measure], int)
    heads, runtimes = (champion, challenger), (champion.runtime, challenger.runtime)
    probabilities = [_answers(side, f) for side, f in zip(heads, both(*runtimes, texts)[:2], strict=True)]
    said = Pair(*(p.argmax(axis=1) for p in probabilities))
    anchor_labels = np.array([e.label for e in data.anchor], int)
    anchored = (_answers(side, f).argmax(axis=1) for side, f in zip(heads, anchor[:2], strict=True))
    return Evidence(
        held_out=Pair(*(answers == labels for answers in said)),
        anchor=Pair(*(answers == anchor_labels for answers in anchored)),
        parts=parts(data.measure),
        edits=_edited(heads, data.measure, said),
        confidence=Pair(*(p.max(axis=1) for p in probabilities)) if texts else None,
        speed=anchor.speed,
    )


def parts(examples: Sequence[Labelled]) -> dict[str, np.ndarray]:
    """By name, which examples belong to each slice; what all belong to is none."""
    found: dict[str, list[int]] = {}
    for number, example in enumerate(examples):
        names = [f"class {LABELS[example.label]}", f"source {example.source}", f"language {example.language}"]
        names += sorted({f"tickers {ticker_group(t)}" for t in example.tickers}) or ["tickers none"]
        for name in names:
            found.setdefault(name, []).append(number)
    masks = {name: np.isin(np.arange(len(examples)), numbers) for name, numbers in sorted(found.items())}
    return {name: mask for name, mask in masks.items() if not mask.all()}


def ticker_group(ticker: str) -> str:
    """The exchange's suffix, such as `NS`; `plain` without one: the United States, coins and commodities."""
    _, dot, suffix = ticker.rpartition(".")
    return suffix if dot else "plain"


def _answers(side: Side, features: np.ndarray) -> np.ndarray:
    """float64[n, 3]."""
    if not len(features):
        return np.zeros((0, len(LABELS)))
    return side.head.probabilities(features, side.temperature)


def _edited(sides: tuple[Side, Side], examples: Sequence[Labelled], said: Pair) -> dict[str, Pair]:
    """By kind, whose answers stay as they were; a text that an edit leaves as it is isn't counted."""
    chosen = sorted(range(len(examples)), key=lambda number: examples[number].example_id)[:EDITED]
    found = {}
    for kind, edit in EDITS.items():
        changed = {n: new for n in chosen if (new := edit(examples[n].text)) != examples[n].text}
        features = both(sides[0].runtime, sides[1].runtime, list(changed.values()))
        answers = (_answers(side, f).argmax(axis=1) for side, f in zip(sides, features[:2], strict=True))
        found[kind] = Pair(*(new == old[list(changed)] for new, old in zip(answers, said, strict=True)))
    return found
