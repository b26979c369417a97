"""Integrated gradients (Sundararajan, Taly, Yan 2017, "Axiomatic Attribution for Deep Networks") of a model's answer to
one text, by captum. Importing this imports torch.

On the path from a text without words to the text itself, gradients by the words' embeddings are summed up. What is
explained is a label's log-odds ln(p / (1 − p)): unlike p they don't flatten out where the model is sure, and unlike a
label's logit they don't move when all logits move together.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError
from typing import Final, NamedTuple

import numpy as np
import torch
from captum.attr import IntegratedGradients

from services.score.base import Encoding
from services.score.features import module_of
from services.score.head import Head
from services.score.labels import LabelMap
from services.stream.errors import Rejected
from services.stream.events import LABELS

STEPS: Final = 64
"""On anchors the gap is then 0.8 % of the difference that is explained (median; 4 % at most), in a second of one core;
the paper asks for 5 %."""
AT_ONCE: Final = 512
"""Tokens of the steps that are computed together; it bounds the memory, and the time until a caller's going is seen."""
CLOSE: Final = 1e-3
"""Of a logit: from a text's ids and from its embeddings the model must give the same, up to rounding."""


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

    def __init__(self, encoding: Encoding, head: Head | LabelMap, temperature: float) -> None:
        self._module = module_of(encoding, None, torch.float32).requires_grad_(False)
        self._head = None if isinstance(head, LabelMap) else [torch.from_numpy(part) for part in head]
        meanings = head.label_map if isinstance(head, LabelMap) else np.eye(len(LABELS), dtype=np.float32)
        self._meanings = torch.from_numpy(meanings)
        self._temperature = temperature

    def attribute(
        self, ids: Sequence[int], blanks: Sequence[int], label: int, given_up: threading.Event | None = None
    ) -> Attributed:
        """Explain the label with that index; `blanks` are the ids of the same text without words.

        Raises:
            Rejected: the model gives that label never, or no other; or it can't be asked about embeddings.
            CancelledError: `given_up` was set before the last steps.
        """
        torch.set_num_threads(1)  # as a lane has: threads that wait for each other crawl where all cores are busy
        own = self._meanings[:, label] == 1
        if own.all() or not own.any():
            how = "always" if own.all() else "never"
            raise Rejected("unexplained", f"the model {how} answers {LABELS[label]}, whatever it reads")
        ends, logits = self._ends(ids, blanks)

        def log_odds(embedded: torch.Tensor) -> torch.Tensor:
            if given_up is not None and given_up.is_set():
                raise CancelledError
            return _log_odds(self._of_embedded(embedded), own)

        attributions = IntegratedGradients(log_odds).attribute(
            *ends, n_steps=STEPS, method="riemann_middle", internal_batch_size=max(1, AT_ONCE // len(ids))
        )
        value, baseline = _log_odds(logits, own).tolist()
        answer = int((logits[0].softmax(0) @ self._meanings).argmax())
        return Attributed(attributions.sum(-1)[0].double().numpy(), value, baseline, answer)

    def _ends(
        self, ids: Sequence[int], blanks: Sequence[int]
    ) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
        """Embeddings [1, t, hidden] of the text and of the one without words, and both their logits [2, k]."""
        text, blank = torch.tensor([ids]), torch.tensor([blanks])
        try:
            ends = self._module.embed(text), self._module.embed(blank)
            with torch.inference_mode():
                logits = self._of_embedded(torch.cat(ends))
                off = (logits[0] - self._logits(self._module(text, torch.ones_like(text)))[0]).abs().max().item()
        except Exception as error:  # each kind of model raises its own
            raise Rejected("unexplained", f"the model can't be given embeddings: {error}") from None
        if not off <= CLOSE * max(1.0, logits.abs().max().item()):  # nor a number that is none
            raise Rejected("unexplained", f"given embeddings, the model's logits are off by {off:.2g}")
        return ends, logits

    def _of_embedded(self, embedded: torch.Tensor) -> torch.Tensor:
        """[n, t, hidden] → [n, k]."""
        return self._logits(self._module.of_embedded(embedded, torch.ones(embedded.shape[:2], dtype=torch.int64)))

    def _logits(self, features: torch.Tensor) -> torch.Tensor:
        """The model's own, calibrated: a classifier's k are its features, of a head it is `Head.logits` in torch."""
        if self._head is not None:
            mean, scale, hidden_weights, hidden_bias, weights, bias = self._head
            features = torch.relu((features - mean) / scale @ hidden_weights + hidden_bias) @ weights + bias
        return features / self._temperature


def _log_odds(logits: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """[n, k] → [n], of a label that any of the logits in the mask `own` counts as."""
    return logits[:, own].logsumexp(1) - logits[:, ~own].logsumexp(1)
