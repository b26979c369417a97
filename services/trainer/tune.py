"""Tune an encoder and its head together, and keep what changed as an adapter of low rank.

The head comes fitted on the untouched encoder: from a fresh one, the first steps would distort what the base knows
(Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features"). Every layer learns all its weights, and of each
matrix's change the nearest one of low rank is kept; the embeddings stay as they are. Importing this imports torch.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from torch.nn.functional import log_softmax

from services.score.adapter import Adapter, low_rank
from services.score.base import Base
from services.score.features import Features
from services.score.head import Head
from services.score.tokens import Tokenizer
from services.stream.errors import Rejected
from services.trainer.head import logits, seeded

POOL: Final = 50
"""Batches that are drawn together and sorted by length, so that little is padded."""


_LAYER: Final = re.compile(r"\.layers?\.(\d+)\.")
"""Where transformers' encoders, whatever their shape, number their layers."""


class Plan(NamedTuple):
    """How long, how far and how fast. Rates rise over the first `warmup` of all steps and fall linearly to nought."""

    epochs: int = 4
    batch: int = 32
    rate: float = 1.5e-4
    """Of the last layer."""
    layer_decay: float = 0.9
    """The rate of each layer, as a share of the one above it (Howard & Ruder 2018): what is general is below."""
    head_rate: float = 1e-3
    warmup: float = 0.06
    decay: float = 0.01
    dropout: float = 0.1
    """Of the features and the hidden units."""
    smoothing: float = 0.05
    """See `smoothed`."""


class Tuned(NamedTuple):
    """What came of a run: by parameter, what it changed, float32; and the head."""

    changes: Mapping[str, np.ndarray]
    head: Head

    def adapter(self, rank: int) -> Adapter:
        """The changes in low rank."""
        return {name: low_rank(change, rank) for name, change in self.changes.items()}


class Progress(NamedTuple):
    """After a step."""

    step: int
    steps: int
    loss: float
    """Mean over the last steps."""
    seconds_left: float


def tune(
    base: Base,
    head: Head,
    texts: Sequence[str],
    targets: np.ndarray,
    weights: np.ndarray,
    *,
    plan: Plan,
    seed: int,
    device: str = "cpu",
    progress: Callable[[Progress], None] = lambda _: None,
    after_epoch: Callable[[Tuned], None] = lambda _: None,
) -> Tuned:
    """Minimise the weighted mean cross-entropy between targets and answers.

    Args:
        base: the encoder, left as it is.
        head: where the head starts; its standardisation is kept.
        texts: n of them.
        targets: float32[n, 3], rows summing to 1.
        weights: float32[n], relative.
        plan: see `Plan`.
        seed: of the initial changes, the order of the texts and the dropout.
        device: `cpu` or `cuda`; either computes in bf16 where the processor can.
        progress: told after every step.
        after_epoch: told what there is after each epoch.

    Raises:
        Rejected: a text can't be tokenised.
    """
    ids = _ids(base, texts)
    y = torch.from_numpy(smoothed(targets, plan.smoothing)).float()
    w = torch.from_numpy((weights / weights.mean()).astype(np.float32))
    with seeded(seed):
        module = _Tuning(base, head).to(device)
        steps = plan.epochs * -(-len(ids) // plan.batch)
        optimizer = torch.optim.AdamW(
            [
                *(
                    {"params": parameters, "lr": plan.rate * plan.layer_decay**depth}
                    for depth, parameters in enumerate(module.layers())
                ),
                {"params": list(module.learned), "lr": plan.head_rate},
            ],
            weight_decay=plan.decay,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min((step + 1) / (plan.warmup * steps), (steps - step) / (steps * (1 - plan.warmup))),
        )
        lengths = [len(found) for found in ids]
        step, began, loss_now = 0, time.monotonic(), 0.0
        for _ in range(plan.epochs):
            module.train()
            for batch in _batches(lengths, plan.batch):
                optimizer.zero_grad()
                with torch.autocast(device, torch.bfloat16, enabled=_bf16(device)):
                    answers = module(*(part.to(device) for part in _padded([ids[i] for i in batch])), plan.dropout)
                loss = (
                    -(y[batch].to(device) * log_softmax(answers.float(), 1)).sum(1) @ w[batch].to(device) / len(batch)
                )
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                step += 1
                loss_now += (loss.item() - loss_now) / min(step, 100)
                progress(Progress(step, steps, loss_now, (time.monotonic() - began) / step * (steps - step)))
            after_epoch(module.tuned())
        return module.tuned()


def smoothed(targets: np.ndarray, share: float) -> np.ndarray:
    """Of float32[n, k] targets `share` spread over all labels (Szegedy et al. 2016): labels err."""
    spread: np.ndarray = (1 - share) * targets + share / targets.shape[1]
    return spread


def soup(runs: Sequence[Tuned]) -> Tuned:
    """The average of runs from one start (Wortsman et al. 2022, "Model soups")."""
    changes = {name: np.stack([run.changes[name] for run in runs]).mean(axis=0) for name in runs[0].changes}
    parts = zip(*(run.head for run in runs), strict=True)
    return Tuned(changes, Head(*(np.stack(part).mean(axis=0) for part in parts)))


class _Tuning(torch.nn.Module):
    """Encoder and head."""

    def __init__(self, base: Base, head: Head) -> None:
        super().__init__()
        self.features = Features(base.folder, {}, "sdpa", torch.float32)
        self._layers: dict[int, list[tuple[str, torch.nn.Parameter]]] = {}
        for name, parameter in self.features.encoder.named_parameters():
            layer = _LAYER.search(name)
            parameter.requires_grad = layer is not None
            if layer:
                self._layers.setdefault(int(layer[1]), []).append((name, parameter))
        self._start = {name: _numpy(part) for layer in self._layers.values() for name, part in layer}
        self.register_buffer("mean", torch.from_numpy(head.mean))
        self.register_buffer("scale", torch.from_numpy(head.scale))
        self.learned = torch.nn.ParameterList([torch.from_numpy(array.copy()) for array in head[2:]])
        self._kept = head

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, dropout: float) -> torch.Tensor:
        features = self.features(ids, mask).float()
        return logits((features - self.mean) / self.scale, list(self.learned), dropout)

    def layers(self) -> list[list[torch.nn.Parameter]]:
        """Last layer first."""
        return [[part for _, part in self._layers[number]] for number in sorted(self._layers, reverse=True)]

    def tuned(self) -> Tuned:
        parts = {name: part for layer in self._layers.values() for name, part in layer}
        changes = {name: _numpy(part) - self._start[name] for name, part in parts.items()}
        return Tuned(changes, Head(self._kept.mean, self._kept.scale, *map(_numpy, self.learned)))


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().float().cpu().numpy().copy()
    return array


def _bf16(device: str) -> bool:
    """Whether the processor has products in bf16; emulated, they are slower than those in fp32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _ids(base: Base, texts: Sequence[str]) -> list[list[int]]:
    ids = []
    for found in Tokenizer(base.folder)(texts):
        if isinstance(found, Rejected):
            raise found
        ids.append(found.ids)
    return ids


def _padded(ids: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """int64[n, t] twice: ids and mask."""
    width = max(map(len, ids))
    padded = torch.zeros(len(ids), width, dtype=torch.int64)
    mask = torch.zeros_like(padded)
    for row, found in enumerate(ids):
        padded[row, : len(found)] = torch.tensor(found)
        mask[row, : len(found)] = 1
    return padded, mask


def _batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Every index once, in random order, but of like length within a batch."""
    order: list[int] = torch.randperm(len(lengths)).tolist()
    for at in range(0, len(order), POOL * size):
        pool = sorted(order[at : at + POOL * size], key=lengths.__getitem__)
        batches = [pool[i : i + size] for i in range(0, len(pool), size)]
        for number in torch.randperm(len(batches)).tolist():
            yield batches[number]
