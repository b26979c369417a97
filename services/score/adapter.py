"""Changes to an encoder's weights, of low rank, kept apart from the pinned base.

They are merged into the weights before anything is exported, and so cost nothing when texts are scored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load, save

from services.stream.errors import Rejected


class LowRank(NamedTuple):
    """One parameter's change, b·a of rank r, in float16; a vector's is a column of rank 1."""

    a: np.ndarray
    """[r, in]"""
    b: np.ndarray
    """[out, r]"""

    def added_to(self, weight: np.ndarray) -> np.ndarray:
        """float32, of the shape of `weight`."""
        change = self.b.astype(np.float32) @ self.a.astype(np.float32)
        answer: np.ndarray = weight + change.reshape(weight.shape)
        return answer


Adapter = Mapping[str, LowRank]
"""By the parameter's name inside the encoder, as transformers names it: `encoder.layer.0.output.dense.weight`. An empty
one leaves the base as it is."""


def low_rank(change: np.ndarray, rank: int) -> LowRank:
    """The change of rank ≤ `rank` that is nearest to float32[out, in] or float32[out] (Eckart & Young 1936).

    The singular values are shared between both halves, so that neither leaves float16's range.
    """
    if change.ndim == 1:
        return LowRank(np.ones((1, 1), np.float16), change[:, None].astype(np.float16))
    u, values, v = np.linalg.svd(change, full_matrices=False)
    half = np.sqrt(values[:rank])
    return LowRank((half[:, None] * v[:rank]).astype(np.float16), (u[:, :rank] * half).astype(np.float16))


def to_bytes(adapter: Adapter) -> bytes:
    """As safetensors; equal adapters give equal bytes."""
    parts = {f"{name}.{part}": value for name, pair in adapter.items() for part, value in pair._asdict().items()}
    return save({name: np.ascontiguousarray(value) for name, value in sorted(parts.items())})


def from_bytes(content: bytes) -> Adapter:
    """Read safetensors.

    Raises:
        Rejected: it is no safetensors file, a half is missing, or shapes or types don't fit together.
    """
    try:
        tensors = load(content)
        names = sorted({name.rpartition(".")[0] for name in tensors})
        adapter = {name: LowRank(tensors.pop(f"{name}.a"), tensors.pop(f"{name}.b")) for name in names}
    except Exception as error:  # safetensors raises several types of its own
        raise Rejected("tampered", f"not an adapter in safetensors: {error!r}") from None
    if tensors:
        raise Rejected("tampered", f"an adapter has no {', '.join(tensors)}")
    for name, (a, b) in adapter.items():
        if not (a.dtype == b.dtype == np.float16 and a.ndim == b.ndim == 2 and a.shape[0] == b.shape[1]):
            raise Rejected("tampered", f"{name}: {a.dtype}{list(a.shape)} and {b.dtype}{list(b.shape)} don't fit")
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise Rejected("tampered", f"{name} holds a value that is not a number")
    return adapter


def merged(weights: Mapping[str, np.ndarray], adapter: Adapter) -> dict[str, np.ndarray]:
    """`weights` by name, with the changes added.

    Raises:
        Rejected: the encoder has no such parameter, or its shape is another.
    """
    found = dict(weights)
    for name, pair in adapter.items():
        weight = found.get(name)
        if weight is None or weight.shape not in ((pair.b.shape[0], pair.a.shape[1]), pair.b.shape[:1]):
            raise Rejected("tampered", f"the adapter's {name} doesn't fit the encoder")
        found[name] = pair.added_to(weight)
    return found
