"""A sequence classifier's own labels, and what they mean here: an artifact's head where the features are logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
from safetensors.numpy import load

from services.score.base import CONFIG
from services.score.head import softmax
from services.stream.errors import Misconfigured, Rejected
from services.stream.events import LABELS, Label

SYNONYMS: Final[Mapping[str, Label]] = {
    "negative": "negative", "neg": "negative", "bearish": "negative",
    "neutral": "neutral", "neu": "neutral",
    "positive": "positive", "pos": "positive", "bullish": "positive",
}  # fmt: skip
"""Own labels, in lower case, whose meaning nobody need be asked for."""


class LabelMap(NamedTuple):
    """Which label each of a classifier's k own ones counts as."""

    label_map: np.ndarray
    """float32[k, 3] of 0 and 1, one 1 in each row; several own labels may count as one."""

    def probabilities(self, features: np.ndarray, temperature: float) -> np.ndarray:
        """Logits float32[n, k] → float64[n, 3], rows summing to 1."""
        answer: np.ndarray = softmax(features, temperature) @ self.label_map
        return answer


def from_bytes(content: bytes) -> LabelMap:
    """Read safetensors, as `head.to_bytes` writes them.

    Raises:
        Rejected: it is no safetensors file or holds anything else than such a map.
    """
    try:
        found = LabelMap(**load(content))
    except Exception as error:  # safetensors raises several types of its own
        raise Rejected("tampered", f"not a label map in safetensors: {error}") from None
    array = found.label_map
    if array.dtype != np.float32 or array.ndim != 2 or array.shape[1] != len(LABELS):
        raise Rejected("tampered", f"label_map is {array.dtype}{list(array.shape)}, not float32[k, {len(LABELS)}]")
    if not (np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all()):
        raise Rejected("tampered", "label_map doesn't give each label one meaning")
    return found


class _Names(msgspec.Struct, frozen=True):
    """What of `config.json` names a classifier's labels."""

    id2label: dict[int, str] | None = None
    """transformers leaves them out where they are the two that it takes for granted."""
    problem_type: str | None = None


def own_labels(folder: Path) -> tuple[str, ...]:
    """The k labels of the classifier in `folder`, in the order of its logits.

    Raises:
        Misconfigured: they aren't there, or don't exclude each other.
    """
    try:
        names = msgspec.json.decode((folder / CONFIG).read_bytes(), type=_Names)
    except msgspec.DecodeError as error:
        raise Misconfigured(f"{folder / CONFIG} names no labels: {error}") from None
    by_index = names.id2label or {0: "LABEL_0", 1: "LABEL_1"}
    if sorted(by_index) != list(range(len(by_index))) or len(by_index) < 2:
        raise Misconfigured(f"{folder / CONFIG} names the labels {by_index}; they must be 0, 1, … and at least 2")
    if names.problem_type not in (None, "single_label_classification"):
        raise Misconfigured(f"the model answers {names.problem_type}: its labels don't exclude each other")
    return tuple(by_index[index] for index in range(len(by_index)))


def label_map(own: Sequence[str], chosen: Mapping[str, str]) -> LabelMap:
    """What `chosen` says of a classifier's own labels, and of the others what they say themselves.

    Raises:
        Misconfigured: a label has no meaning, or `chosen` names one that isn't there or a meaning that is none.
    """
    meanings = {name: chosen.get(name, SYNONYMS.get(name.strip().casefold(), "")) for name in own}
    if unknown := [name for name in chosen if name not in meanings]:
        raise Misconfigured(f"the model has no label {', '.join(unknown)}; it has {', '.join(own)}")
    if open_ := [name for name, meaning in meanings.items() if meaning not in LABELS]:
        example = msgspec.json.encode({name: meanings[name] if name not in open_ else "…" for name in own}).decode()
        raise Misconfigured(
            f"the model's labels are {', '.join(own)}; say which of {', '.join(LABELS)} each counts as: "
            f"--label-map '{example}'"
        )
    return LabelMap(np.array([[meanings[name] == label for label in LABELS] for name in own], np.float32))
