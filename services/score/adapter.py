"""Low-rank changes to an encoder's weights, W + b·a (LoRA, Hu et al. 2021), kept apart from the pinned base.

They are merged into the weights before anything is exported, and so cost nothing when texts are scored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load, save

from services.stream.errors import Rejected


class LowRank(NamedTuple):
    """One module's change; float16, r the rank."""

    a: np.ndarray
    """[r, in]"""
    b: np.ndarray
    """[out, r], with LoRA's scale in it."""

    @property
    def change(self) -> np.ndarray:
        """float32[out, in], added to the module's weight."""
        answer: np.ndarray = self.b.astype(np.float32) @ self.a.astype(np.float32)
        return answer


Adapter = Mapping[str, LowRank]
"""By the module's name inside the encoder, as transformers names it: `encoder.layer.0.attention.self.query`. An empty
one leaves the base as it is."""


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
    """`weights` by name, with the changes added to `<module>.weight`.

    Raises:
        Rejected: the encoder has no such module, or its weight has another shape.
    """
    found = dict(weights)
    for name, pair in adapter.items():
        weight = found.get(f"{name}.weight")
        if weight is None or weight.shape != (pair.b.shape[0], pair.a.shape[1]):
            raise Rejected("tampered", f"the adapter's {name} doesn't fit the encoder")
        found[f"{name}.weight"] = weight + pair.change
    return found
