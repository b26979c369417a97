"""What is taken from an encoder, in torch: one module for the GPU, for training and for encoders that no graph is
written for. Importing this imports torch.

Sentiment hangs on single words, and a sentence embedding's last layer was trained to forget them. With a head on the
frozen base, mean and maximum over the tokens of the layers before the last are right 3 (TFNS) and 4 (SEntFiN) points
more often than the last layer's mean. From the last layer the first token is taken, where a tuned encoder gathers its
answer: what goes through that layer is one token then, which saves a seventh of all work.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging

from services.score.adapter import Adapter, merged
from services.score.base import EXPORT, OUTSIDE, Encoding
from services.stream.errors import Misconfigured


class Features(torch.nn.Module):
    """(ids int64[n, t], mask int64[n, t]) → [n, 5 × hidden]: mean and maximum over the tokens of each of the two layers
    before the last, and the first token of the last.
    """

    def __init__(self, folder: Path, adapter: Adapter, attention: str | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.encoder, _ = _loaded(AutoModel, folder, adapter, attention)
        self.to(dtype).eval()

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self._taken(mask, input_ids=ids)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """int64[n, t] → [n, t, hidden]: the embeddings of the words alone, without their positions."""
        embedded: torch.Tensor = self.encoder.get_input_embeddings()(ids)
        return embedded

    def of_embedded(self, embedded: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """As `forward`, from the words' embeddings on."""
        return self._taken(mask, inputs_embeds=embedded)

    def _taken(self, mask: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        *_, early, late, last = self.encoder(attention_mask=mask, output_hidden_states=True, **inputs).hidden_states
        inside = mask.unsqueeze(-1).to(last.dtype)
        tokens = inside.sum(1)
        parts = []
        for states in (early, late):
            parts += [(states * inside).sum(1) / tokens, (states + (inside - 1) * OUTSIDE).amax(1)]
        return torch.cat([*parts, last[:, 0]], -1)


class Logits(torch.nn.Module):
    """(ids int64[n, t], mask int64[n, t]) → [n, k]: a sequence classifier's own logits.

    Raises:
        Misconfigured: the files hold no such classifier, or not all of its weights.
    """

    def __init__(self, folder: Path, adapter: Adapter, attention: str | None, dtype: torch.dtype) -> None:
        super().__init__()
        try:
            self.classifier, missing = _loaded(AutoModelForSequenceClassification, folder, adapter, attention)
        except (OSError, ValueError, RuntimeError) as error:
            raise Misconfigured(f"{folder} holds no sequence classifier: {error}") from None
        if missing:  # transformers would go on with random ones
            raise Misconfigured(f"{folder} holds no sequence classifier: it lacks {', '.join(sorted(missing))}")
        self.padding = self.classifier.config.pad_token_id or 0
        self.to(dtype).eval()

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """See the class."""
        # Some models find positions, or the last token, by the padding's id.
        return self._answered(mask, input_ids=torch.where(mask == 1, ids, self.padding))

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """See `Features`."""
        embedded: torch.Tensor = self.classifier.get_input_embeddings()(ids)
        return embedded

    def of_embedded(self, embedded: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """See `Features`; for texts without padding."""
        return self._answered(mask, inputs_embeds=embedded)

    def _answered(self, mask: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(attention_mask=mask, **inputs).logits
        return logits


def module_of(encoding: Encoding, attention: str | None, dtype: torch.dtype) -> Features | Logits:
    """What makes the features of `encoding`; `attention` as transformers names it, None for the fastest it has.

    Raises:
        Misconfigured: see `Logits`.
    """
    kind: type[Features | Logits] = Features if encoding.export == EXPORT else Logits
    return kind(encoding.base.folder, encoding.adapter, attention, dtype)


def _loaded(kind: Any, folder: Path, adapter: Adapter, attention: str | None) -> tuple[Any, set[str]]:
    """A transformers model with the adapter in it, and the names of the weights that its files lack."""
    with _Quiet():
        model, report = kind.from_pretrained(
            str(folder), attn_implementation=attention, dtype=torch.float32, use_safetensors=True,
            local_files_only=True, output_loading_info=True,
        )  # fmt: skip
    plain = {name: part.detach().numpy() for name, part in model.named_parameters() if name in adapter}
    for name, weight in merged(plain, adapter).items():
        model.get_parameter(name).data = torch.from_numpy(weight)
    return model, set(report["missing_keys"])


class _Quiet:
    """No progress bar over a load of a tenth of a second, and no table of weights that aren't asked for."""

    def __enter__(self) -> None:
        self._shown = transformers_logging.is_progress_bar_enabled()
        self._level = transformers_logging.get_verbosity()
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]

    def __exit__(self, *_: object) -> None:
        transformers_logging.set_verbosity(self._level)
        if self._shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


class TorchEncoder:
    """The encoder on a GPU in bf16, or on the CPU in fp32: as its reference, and where there is no export.

    Each thread that calls it has a stream of its own, so that one batch is copied while another is computed.
    """

    def __init__(self, encoding: Encoding, device: str) -> None:
        self.device = device
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        self._features = module_of(encoding, None, dtype).to(device)
        self._threads = threading.local()

    def run(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """See `services.score.lanes.Encoder`."""
        try:
            with torch.inference_mode(), self._stream():
                features = self._features(*(self._moved(part) for part in (ids, mask))).float().cpu()
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise MemoryError(str(error)) from None
        answer: np.ndarray = features.numpy()
        return answer

    def _moved(self, part: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(part)
        if self.device == "cpu":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def _stream(self) -> AbstractContextManager[Any]:
        if self.device == "cpu":
            return nullcontext()
        if not hasattr(self._threads, "stream"):
            self._threads.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        return torch.cuda.stream(self._threads.stream)
