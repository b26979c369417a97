"""The two streams: a champion of one labelled set, and the other set as the new source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from ops.bench.common import ROOT, console
from services.score.base import Encoding, find
from services.score.engine import Runtime, embed, open_runtime
from services.score.head import Head
from services.stream.events import LABELS
from services.trainer import recipe
from services.trainer.copies import pairs
from services.trainer.dataset import LIVE_REPLAY, LIVE_WEIGHT, REPLAY_WEIGHT
from services.trainer.head import fit
from services.trainer.recipe import Example

TESTED: Final = 3_000
"""Texts of each set that measure."""
SEED: Final = 1


class Texts(NamedTuple):
    """n texts with their features and labels."""

    texts: list[str]
    features: np.ndarray
    """float32[n, d]."""
    labels: np.ndarray
    """int[n], indices into `LABELS`."""


class Stream(NamedTuple):
    """A champion, the set that it learned from, and the one that it meets."""

    name: str
    champion: Head
    old: Texts
    """Set aside from what the champion learned from: measures forgetting."""
    new: Texts
    """Set aside from the new source, with no near-copy in `pool`."""
    pool: Texts
    """The rest of the new source, for readers to look at."""
    replay: Texts
    """The shipped texts that each run learns from again."""
    anchor: Texts
    """Those that measure forgetting in the gate."""


class _Split(NamedTuple):
    tested: Texts
    rest: Texts


class _Written(NamedTuple):
    """See `copies.Text`."""

    text: str
    at: int = 0


def streams(data: Path) -> list[Stream]:
    """Both, of texts with a single label. The encoder is the bundled base, which has seen neither set."""
    split = recipe.read(data)
    found = [*split.learn, *split.apart, *split.measure["tfns_valid"], *split.measure["sentfin_holdout"]]
    runtime = open_runtime(Encoding(find()), device="cpu", cache=ROOT / "var" / "models")
    sets = {name: _split(_texts(found, name, runtime)) for name in ("tfns", "sentfin")}
    shipped = _texts(found, "anchor", runtime), _texts(split.measure["anchor"], "anchor", runtime)
    return [
        Stream(
            f"{old} to {new}", _champion(sets[old].rest), sets[old].tested, sets[new].tested, sets[new].rest, *shipped
        )
        for old, new in (("tfns", "sentfin"), ("sentfin", "tfns"))
    ]


def chosen(texts: Texts, numbers: np.ndarray) -> Texts:
    """Some of them, int[k] or bool[n]."""
    names = np.arange(len(texts.texts))[numbers]
    return Texts([texts.texts[n] for n in names], texts.features[names], texts.labels[names])


def challenger(
    stream: Stream,
    champion: Head,
    numbers: Sequence[int],
    said: np.ndarray,
    weights: np.ndarray | None = None,
    seed: int = 0,
) -> Head:
    """As the trainer's: from the champion, with replay of the shipped texts and of its own answers.

    Args:
        numbers: of texts of the pool, n.
        said: int[n], what readers say these are; `weights` float32[n], 1 without.
    """
    pool = stream.pool
    order = np.random.default_rng([seed, 2]).permutation(len(pool.labels))
    live = chosen(pool, order[~np.isin(order, numbers)][:LIVE_REPLAY])
    parts = (pool.features[[*numbers]], stream.replay.features, live.features)
    answers = champion.probabilities(live.features, 1.0).astype(np.float32)
    counts = np.ones(len(said), np.float32) if weights is None else weights
    rest = np.repeat(np.array([REPLAY_WEIGHT, LIVE_WEIGHT], np.float32), [len(part) for part in parts[1:]])
    targets = np.concatenate([one_hot(said), one_hot(stream.replay.labels), answers])
    return fit(np.concatenate(parts), targets, np.concatenate([counts, rest]), init=champion, seed=seed)


def _texts(examples: Sequence[Example], source: str, runtime: Runtime) -> Texts:
    found = [e for e in examples if e.source == source and max(e.target) == 1]
    console.print(f"embedding {len(found)} texts of {source}")
    texts = [e.text for e in found]
    return Texts(texts, embed(runtime, texts), np.array([e.label for e in found]))


def _split(texts: Texts) -> _Split:
    order = np.random.default_rng(SEED).permutation(len(texts.texts))
    tested, rest = chosen(texts, order[:TESTED]), chosen(texts, order[TESTED:])
    sides = [[_Written(text) for text in part.texts] for part in (rest, tested)]
    copied = [pair.left for pair in pairs(*sides)]
    return _Split(tested, chosen(rest, ~np.isin(np.arange(len(rest.texts)), copied)))


def _champion(learned: Texts) -> Head:
    counts = Counter(learned.labels.tolist())
    weights = np.array([counts[label] ** -0.25 for label in learned.labels], np.float32)  # as `recipe.weights`
    return fit(learned.features, one_hot(learned.labels), weights, seed=SEED)


def one_hot(labels: np.ndarray) -> np.ndarray:
    """int[n] → float32[n, 3]."""
    found: np.ndarray = np.eye(len(LABELS), dtype=np.float32)[labels]
    return found


def right(head: Head, texts: Texts) -> np.ndarray:
    """bool[n]."""
    answers: np.ndarray = head.logits(texts.features).argmax(axis=1) == texts.labels
    return answers
