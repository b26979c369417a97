"""A Hugging Face sequence classifier as a model of this project: `tickerloop models add` registers it, no more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Final

import numpy as np

from services.score import artifact
from services.score.artifact import EXAMPLES, Model
from services.score.base import LOGITS, Encoding, find
from services.score.batching import BUDGET
from services.score.engine import Runtime, embed, open_runtime
from services.score.labels import LabelMap, label_map, own_labels
from services.score.lanes import Lanes
from services.settings import Settings
from services.stream.database import transaction
from services.stream.errors import Misconfigured
from services.stream.events import LABELS
from services.trainer import registry
from services.trainer.anchors import anchors

TEMPERATURE: Final = 1.0
"""The classifier's probabilities are its own."""
COMPANY: Final = 0.02
"""Of a probability: what other texts in the batch may change, which is rounding alone; bf16 rounds most."""
COMPARED: Final = 100
"""Anchor texts whose labels are held against torch's in fp32; a base-sized model takes some seconds."""


def add(
    settings: Settings, name: str, chosen: Mapping[str, str], languages: Sequence[str], say: Callable[[str], None]
) -> Model:
    """Make a model of the classifier `name`, a folder or what Hugging Face has, and register it.

    `chosen` says what its own labels mean where they don't say it themselves; `languages` are the codes of what it
    reads, none when that isn't known.

    Raises:
        Misconfigured: it isn't there or is no such classifier, a label has no meaning, or its answers depend on which
            texts are in the batch.
        Transient: the database is away.
    """
    base = find(name)
    own = own_labels(base.folder)
    head = label_map(own, chosen)
    for label, row in zip(own, head.label_map, strict=True):
        say(f"{label} counts as {LABELS[int(row.argmax())]}")
    runtime = open_runtime(
        Encoding(base, export=LOGITS), device=settings.device, threads=settings.threads, cache=settings.model_cache
    )
    examples = dict(zip(EXAMPLES, _examined(runtime, head), strict=True))
    metrics = _measured(runtime, head)
    for measure, value in metrics.items():
        say(f"{measure} {value:.1%}")
    model = artifact.make(
        head, TEMPERATURE, runtime.encoding,
        dataset="", parent=None, metrics=metrics, examples=examples, languages=languages,
    )  # fmt: skip
    _register(settings, model)
    return model


def _examined(runtime: Runtime, head: LabelMap) -> np.ndarray:
    """Logits float32[n, k] of the examples, after a look at them alone and beside a text as long as it can be."""
    longest = " ".join(EXAMPLES * 20)
    logits = embed(runtime, [*EXAMPLES, longest])
    if logits.shape[1] != len(head.label_map):
        raise Misconfigured(f"the model gives {logits.shape[1]} logits for its {len(head.label_map)} labels")
    alone = np.concatenate([embed(runtime, [text]) for text in (*EXAMPLES, longest)])
    off = np.abs(head.probabilities(alone, TEMPERATURE) - head.probabilities(logits, TEMPERATURE)).max()
    if not off < COMPANY:  # nor a number that is none
        raise Misconfigured(f"the model's answer to a text depends on others in its batch: by {off:.3f} at the most")
    return logits[:-1]


def _measured(runtime: Runtime, head: LabelMap) -> dict[str, float]:
    """On the measuring half of the anchor set, which is English: how often it is right, and how often it gives torch's
    own label."""
    from services.score.features import TorchEncoder  # imports torch

    shipped = [anchor for anchor in anchors() if not anchor.replayed]
    texts = [anchor.text for anchor in shipped]
    labels = head.probabilities(embed(runtime, texts), TEMPERATURE).argmax(axis=1)
    exact = runtime._replace(lanes=Lanes(TorchEncoder(runtime.encoding, "cpu"), BUDGET, 1))
    wanted = head.probabilities(embed(exact, texts[:COMPARED]), TEMPERATURE).argmax(axis=1)
    return {
        "anchor_accuracy": round(float(np.mean(labels == [LABELS.index(anchor.label) for anchor in shipped])), 4),
        "fp32_agreement": round(float(np.mean(labels[:COMPARED] == wanted)), 4),
    }


def _register(settings: Settings, model: Model) -> None:
    with (
        closing(settings.connector("models")()) as connection,
        transaction(connection),
        connection.cursor() as cursor,
    ):
        registry.register(cursor, model.card.version, None, artifact.files_of(model))
