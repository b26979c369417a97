"""What is tuned: an encoder and its head, as one torch module. Importing this imports torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
import torch

from services.score.adapter import Adapter, low_rank
from services.score.base import Base
from services.score.features import Features
from services.score.head import Head
from services.trainer.head import logits

NO_ADAPTER: Final[Adapter] = MappingProxyType({})
_LAYER: Final = re.compile(r"\.layers?\.(\d+)\.")
"""Where transformers' encoders, whatever their shape, number their layers."""


class Tuned(NamedTuple):
    """What came of a run: by parameter, how it differs from the base, float32; and the head."""

    changes: Mapping[str, np.ndarray]
    head: Head
    epoch: int = 0
    """After which it was so; 0 is the start."""
    loss: float = 0.0
    """Then, on the watched texts."""

    def adapter(self, rank: int) -> Adapter:
        """The changes in low rank."""
        return {name: low_rank(change, rank) for name, change in self.changes.items()}


class Learner(torch.nn.Module):
    """Encoder and head, from where `adapter` and `head` left them. The embeddings stay as they are.

    With rank 0 all weights of all layers learn. Otherwise they stay, and each of their matrices gets a change b·a of
    that rank to learn, which begins at nought (Hu et al. 2021, "LoRA"): their own gradients, a third of the work,
    aren't needed then. The change acts on what goes through a layer, as `x·aᵀ·bᵀ`.
    """

    def __init__(self, base: Base, adapter: Adapter, head: Head, rank: int = 0) -> None:
        super().__init__()
        self.features = Features(base.folder, adapter, "sdpa", torch.float32).requires_grad_(False)
        self.register_buffer("mean", torch.from_numpy(head.mean))
        self.register_buffer("scale", torch.from_numpy(head.scale))
        self.learned = torch.nn.ParameterList([torch.from_numpy(array.copy()) for array in head[2:]])
        self.low = torch.nn.ParameterList()
        self._kept = head
        shapes = {name: part.shape for name, part in self.features.encoder.named_parameters()}
        self._before = {name: pair.added_to(np.zeros(shapes[name], np.float32)) for name, pair in adapter.items()}
        self._layers: dict[int, list[torch.nn.Parameter]] = {}
        self._whole: dict[str, tuple[torch.nn.Parameter, np.ndarray]] = {}
        self._pairs: dict[str, tuple[torch.nn.Parameter, torch.nn.Parameter]] = {}
        if rank:
            self._learn_pairs(rank)
        else:
            self._learn_whole()

    def _learn_whole(self) -> None:
        for name, parameter in self.features.encoder.named_parameters():
            if layer := _LAYER.search(name):
                parameter.requires_grad = True
                self._layers.setdefault(int(layer[1]), []).append(parameter)
                self._whole[name] = parameter, _numpy(parameter)

    def _learn_pairs(self, rank: int) -> None:
        for name, module in self.features.encoder.named_modules():
            layer = _LAYER.search(name)
            if layer and isinstance(module, torch.nn.Linear):
                a = torch.nn.Parameter(torch.randn(rank, module.in_features) / module.in_features**0.5)
                b = torch.nn.Parameter(torch.zeros(module.out_features, rank))
                self._layers.setdefault(int(layer[1]), []).extend((a, b))
                self._pairs[f"{name}.weight"] = a, b
                self.low.extend((a, b))
                _attach(module, a, b)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, dropout: float) -> torch.Tensor:
        """(ids int64[n, t], mask int64[n, t]) → logits [n, 3]."""
        features = self.features(ids, mask).float()
        return logits((features - self.mean) / self.scale, list(self.learned), dropout)

    def layers(self) -> list[list[torch.nn.Parameter]]:
        """What learns of the encoder, last layer first."""
        return [self._layers[number] for number in sorted(self._layers, reverse=True)]

    def learning(self) -> dict[str, torch.nn.Parameter]:
        """All that learns, by name."""
        return {name: part for name, part in self.named_parameters() if part.requires_grad}

    def take(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put back what `learning` named."""
        with torch.no_grad():
            for name, part in self.learning().items():
                part.copy_(tensors[name])

    def tuned(self) -> Tuned:
        """What there is now."""
        changes = dict(self._before)
        new = {name: _numpy(part) - start for name, (part, start) in self._whole.items()}
        new |= {name: _numpy(b) @ _numpy(a) for name, (a, b) in self._pairs.items()}
        for name, change in new.items():
            changes[name] = changes[name] + change if name in changes else change
        return Tuned(changes, Head(self._kept.mean, self._kept.scale, *map(_numpy, self.learned)))


def _attach(linear: torch.nn.Linear, a: torch.nn.Parameter, b: torch.nn.Parameter) -> None:
    linear.register_forward_hook(lambda _, inputs, output: output + inputs[0] @ a.T @ b.T)


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().float().cpu().numpy().copy()
    return array
