"""What is taken from an encoder, in torch: one module for the export and for the GPU. Importing this imports torch.

Sentiment hangs on single words, and a sentence embedding's last layer was trained to forget them. With a linear head
and a fifth of the recipe's data held out, mean and maximum over the tokens of the last three layers are right 3 (TFNS)
and 4 (SEntFiN) points more often than the last layer's mean. With a hidden layer, the first token's state adds nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from transformers import AutoModel
from transformers.utils import logging as transformers_logging

LAYERS: Final = 3
OUTSIDE: Final = 1e4
"""Taken off the states of padding before the maximum: far beyond any state, and exact nought elsewhere."""


class Features(torch.nn.Module):
    """(ids int64[n, t], mask int64[n, t]) → [n, 2 × LAYERS × hidden]: mean and maximum of each layer, first to last."""

    def __init__(self, folder: Path, attention: str, dtype: torch.dtype) -> None:
        super().__init__()
        with _Quiet():
            self.encoder: Any = AutoModel.from_pretrained(
                str(folder), attn_implementation=attention, dtype=dtype, use_safetensors=True, local_files_only=True
            )
        self.eval()

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """See the class."""
        layers = self.encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-LAYERS:]
        inside = mask.unsqueeze(-1).to(layers[0].dtype)
        tokens = inside.sum(1)
        parts = []
        for states in layers:
            parts += [(states * inside).sum(1) / tokens, (states + (inside - 1) * OUTSIDE).amax(1)]
        return torch.cat(parts, -1)


class _Quiet:
    """No progress bar over a load of a tenth of a second."""

    def __enter__(self) -> None:
        self._shown = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]

    def __exit__(self, *_: object) -> None:
        if self._shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


class TorchEncoder:
    """The encoder on a GPU in bf16 (or, as its reference, on the CPU in fp32)."""

    def __init__(self, folder: Path, device: str) -> None:
        self.device = device
        self._features = Features(folder, "sdpa", torch.bfloat16 if device == "cuda" else torch.float32).to(device)

    def run(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """int64[n, t] twice → float32[n, d]."""
        with torch.inference_mode():
            features = self._features(*(torch.from_numpy(part).to(self.device) for part in (ids, mask)))
            answer: np.ndarray = features.float().cpu().numpy()
        return answer
