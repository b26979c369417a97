"""Integrated gradients (Sundararajan, Taly, Yan 2017, "Axiomatic Attribution for Deep Networks") of a model's answer to
one text, by captum. Importing this imports torch.

On the path from a text without words to the text itself, gradients by the words' embeddings are summed up. What is
explained is a label's log-odds ln(p / (1 − p)): unlike p they don't flatten out where the model is sure, and unlike a
label's logit they don't move when all logits move together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from captum.attr import IntegratedGradients

from services.score.base import Encoding
from services.score.features import Features
from services.score.head import Head

STEPS: Final = 64
"""On anchors the gap is then 0.8 % of the difference that is explained (median; 4 % at most), in a second of one core;
the paper asks for 5 %."""
AT_ONCE: Final = 512
"""Tokens of the steps that are computed together; it bounds the memory."""


class Attributed(NamedTuple):
    """Of one text and label; log-odds are natural logarithms."""

    attributions: np.ndarray
    """float64[t], what each token adds to the log-odds; without the error of the steps they sum to value − baseline."""
    value: float
    """Log-odds of the label."""
    baseline: float
    """The same without words."""
    label: int
    """Index of the label that the text has in fp32."""


class Gradients:
    """A model in fp32 on the CPU, whatever serves it: int8 has no gradients, and a GPU's memory is the stream's."""

    def __init__(self, encoding: Encoding, head: Head, temperature: float) -> None:
        features = Features(encoding.base.folder, encoding.adapter, "sdpa", torch.float32)
        self._features = features.requires_grad_(False)
        self._head = [torch.from_numpy(part) for part in head]
        self._temperature = temperature

    def attribute(self, ids: Sequence[int], blanks: Sequence[int], label: int) -> Attributed:
        """Explain the label with that index; `blanks` are the ids of the same text without words."""
        torch.set_num_threads(1)  # as a lane has: threads that wait for each other crawl where all cores are busy
        ends = self._features.embed(torch.tensor([ids])), self._features.embed(torch.tensor([blanks]))
        attributions = IntegratedGradients(lambda embedded: _log_odds(self._logits(embedded), label)).attribute(
            *ends, n_steps=STEPS, method="riemann_middle", internal_batch_size=max(1, AT_ONCE // len(ids))
        )
        with torch.inference_mode():
            logits = self._logits(torch.cat(ends))
            value, baseline = _log_odds(logits, label).tolist()
        return Attributed(attributions.sum(-1)[0].double().numpy(), value, baseline, int(logits[0].argmax()))

    def _logits(self, embedded: torch.Tensor) -> torch.Tensor:
        """`Head.logits` in torch, calibrated: [n, t, hidden] → [n, 3]."""
        mean, scale, hidden_weights, hidden_bias, weights, bias = self._head
        mask = torch.ones(embedded.shape[:2], dtype=torch.int64)
        features = (self._features.of_embedded(embedded, mask) - mean) / scale
        logits: torch.Tensor = torch.relu(features @ hidden_weights + hidden_bias) @ weights + bias
        return logits / self._temperature


def _log_odds(logits: torch.Tensor, label: int) -> torch.Tensor:
    """[n, 3] → [n], of the label with that index."""
    others = torch.cat([logits[:, :label], logits[:, label + 1 :]], 1)
    return logits[:, label] - others.logsumexp(1)
