"""From an encoder's features to probabilities: one hidden layer, in numpy, or whatever else answers alike."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from safetensors.numpy import load, save

from services.stream.errors import Rejected


class Answering(Protocol):
    """A named tuple of arrays that turns features into probabilities: a `Head`, or a classifier's `LabelMap`."""

    def probabilities(self, features: np.ndarray, temperature: float) -> np.ndarray:
        """float32[n, d] → float64[n, 3], rows summing to 1."""

    def _asdict(self) -> dict[str, Any]: ...


class Head(NamedTuple):
    """float32 throughout. d features, h hidden units, 3 labels."""

    mean: np.ndarray
    """[d], taken off the features."""
    scale: np.ndarray
    """[d], what they are divided by then."""
    hidden_weights: np.ndarray
    """[d, h]"""
    hidden_bias: np.ndarray
    """[h]"""
    weights: np.ndarray
    """[h, 3]"""
    bias: np.ndarray
    """[3]"""

    def logits(self, features: np.ndarray) -> np.ndarray:
        """float32[n, d] → float32[n, 3]."""
        hidden = (features - self.mean) / self.scale @ self.hidden_weights + self.hidden_bias
        answer: np.ndarray = np.maximum(hidden, 0) @ self.weights + self.bias
        return answer

    def probabilities(self, features: np.ndarray, temperature: float) -> np.ndarray:
        """float32[n, d] → float64[n, 3], rows summing to 1."""
        return softmax(self.logits(features), temperature)


def softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    """float[n, k] → float64[n, k]."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    answer: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return answer


def to_bytes(head: Answering) -> bytes:
    """As safetensors; equal heads give equal bytes."""
    return save({name: np.ascontiguousarray(value) for name, value in head._asdict().items()})


def from_bytes(content: bytes) -> Head:
    """Read safetensors.

    Raises:
        Rejected: it is no safetensors file, a tensor is missing or unknown, or shapes or types don't fit together.
    """
    try:
        tensors = load(content)
        head = Head(**tensors)
    except Exception as error:  # safetensors raises several types of its own
        raise Rejected("tampered", f"not a head in safetensors: {error}") from None
    d, h = head.hidden_weights.shape if head.hidden_weights.ndim == 2 else (-1, -1)
    wanted = Head((d,), (d,), (d, h), (h,), (h, 3), (3,))  # type: ignore[arg-type]  # shapes in place of arrays
    for name, value, shape in zip(Head._fields, head, wanted, strict=True):
        if value.shape != shape or value.dtype != np.float32:
            raise Rejected("tampered", f"{name} is {value.dtype}{list(value.shape)}, not float32{list(shape)}")
        if not np.isfinite(value).all():
            raise Rejected("tampered", f"{name} holds a value that is not a number")
    return head
