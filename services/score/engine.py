"""The engine: texts in, as many answers out, in the same order.

An engine is one model on one device and never changes; a swap is another engine that shares the encoder with it, put
in its place by whoever holds it. So a call is answered by one model from end to end, and engines may be called from
several threads.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import numpy as np

from services.score import artifact
from services.score.artifact import Model, ModelCard
from services.score.base import TOKENIZER, Base, BaseFiles, check, exported, find
from services.score.batching import BUDGET, plan
from services.score.tokens import Tokenizer, Tokens
from services.stream.errors import Misconfigured, Rejected
from services.stream.events import LABELS, Label

SMALL: Final = 128
"""Tokens below which a batch isn't split for a free core."""
GPU_BUDGET: Final = 16_384
"""Tokens of a batch on a GPU, which is idle at a CPU's."""


class Scored(NamedTuple):
    """One text's answer. `probabilities` in the order of `LABELS`, summing to 1; `truncated` when only its start was
    read."""

    label: Label
    probabilities: tuple[float, float, float]
    truncated: bool


class Encoder(Protocol):
    """Something that turns tokens into features."""

    @property
    def device(self) -> str:
        """`cpu` or `cuda`."""

    def run(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """int64[n, t] twice → float32[n, d]; a row depends on nothing but its own text."""


class OnnxEncoder:
    """The exported encoder on the CPU. Each `run` takes one core: batches side by side don't wait for each other, as
    threads within a batch do."""

    device = "cpu"

    def __init__(self, file: Path) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else its builds report to Microsoft; read at the import
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def run(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """See `Encoder`."""
        features: np.ndarray = self._session.run(None, {"ids": ids, "mask": mask})[0]
        return features


class Runtime(NamedTuple):
    """The expensive part, shared by all engines over one base: its encoder and tokenizer."""

    base: BaseFiles
    encoder: Encoder
    tokenizer: Tokenizer
    budget: int
    """Most tokens of a batch."""
    lanes: int
    """Batches that run side by side."""
    pool: Executor

    @property
    def key(self) -> str:
        """Equal for equal features."""
        return self.base.key

    def budget_for(self, tokens: int) -> int:
        """What keeps every lane busy when `tokens` are all there is."""
        return min(self.budget, max(SMALL, -(-tokens // self.lanes)))


def open_runtime(base: Base, *, device: str = "auto", threads: int = 0, cache: Path | None = None) -> Runtime:
    """Load an encoder, exporting it first where this machine hasn't yet. `device` is auto, cpu or cuda.

    Raises:
        Misconfigured: cuda is asked for and there is none, or `device` is something else.
    """
    tokenizer = Tokenizer(base.folder / TOKENIZER)
    if _on_gpu(device):
        from services.score.features import TorchEncoder  # imports torch

        return _runtime(base, TorchEncoder(base.folder, "cuda"), tokenizer, GPU_BUDGET, 1)
    return _runtime(base, OnnxEncoder(exported(base, cache)), tokenizer, BUDGET, threads or _cores())


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _runtime(base: Base, encoder: Encoder, tokenizer: Tokenizer, budget: int, lanes: int) -> Runtime:
    return Runtime(base.files, encoder, tokenizer, budget, lanes, ThreadPoolExecutor(lanes, "encoder"))


def _on_gpu(device: str) -> bool:
    if device not in {"auto", "cpu", "cuda"}:
        raise Misconfigured(f"the device is {device!r}; it takes auto, cpu or cuda")
    if device == "cpu" or (device == "auto" and not Path("/proc/driver/nvidia/version").exists()):
        return False  # without importing torch
    import torch

    if torch.cuda.is_available():
        return True
    if device == "cuda":
        raise Misconfigured("device is cuda, but torch finds no GPU; set TICKERLOOP_DEVICE=cpu or auto")
    return False


class Engine:
    """One model, ready to answer."""

    def __init__(self, runtime: Runtime, model: Model) -> None:
        self.runtime = runtime
        self.model = model

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self.model.card

    @property
    def device(self) -> str:
        """`cpu` or `cuda`."""
        return self.runtime.encoder.device

    def score(self, texts: Sequence[str]) -> list[Scored | Rejected]:
        """As many answers as texts, in order; `Rejected` in the place of a text that can't be scored."""
        tokens = self.runtime.tokenizer(texts)
        good = [found for found in tokens if isinstance(found, Tokens)]
        scored = iter(_answers(self.probabilities(_features(self.runtime, good)), good) if good else ())
        return [found if isinstance(found, Rejected) else next(scored) for found in tokens]

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Features float32[n, d], what a head is trained on.

        Raises:
            Rejected: a text can't be tokenised.
        """
        return embed(self.runtime, texts)

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """float32[n, d] → float64[n, 3]."""
        return self.model.head.probabilities(features, self.card.temperature)

    def warm(self) -> None:
        """Score the stored examples, so that the first text meets warm caches, and prove the model by them.

        Raises:
            Misconfigured: an example's label or probabilities aren't the stored ones; the message shows them.
        """
        answers = self.probabilities(self.embed([example.text for example in self.card.examples]))
        wrong = artifact.differences(self.card, answers)
        if wrong:
            raise Misconfigured(
                f"model {self.card.version} on {self.device} does not give its stored answers: {'; '.join(wrong)}"
            )


def open_engine(
    folder: Path, *, device: str = "auto", threads: int = 0, share: Engine | None = None, cache: Path | None = None
) -> Engine:
    """Load, verify and warm the model in `folder`; over the same base it shares the runtime of `share`.

    Raises:
        Rejected: the model isn't what its card says.
        Misconfigured: its encoder isn't here or is another, or it doesn't give its stored answers.
    """
    model = artifact.load(folder)
    if share is not None and share.runtime.key == model.card.base.key:
        runtime = share.runtime
    else:
        base = find(model.card.base.name)
        check(base.files, model.card.base)
        runtime = open_runtime(base, device=device, threads=threads, cache=cache)
    engine = Engine(runtime, model)
    engine.warm()
    return engine


def embed(runtime: Runtime, texts: Sequence[str]) -> np.ndarray:
    """Features float32[n, d] of texts, without a model.

    Raises:
        Rejected: a text can't be tokenised.
    """
    tokens = []
    for found in runtime.tokenizer(texts):
        if isinstance(found, Rejected):
            raise found
        tokens.append(found)
    return _features(runtime, tokens)


def _features(runtime: Runtime, tokens: Sequence[Tokens]) -> np.ndarray:
    lengths = [len(found.ids) for found in tokens]
    batches = plan(lengths, runtime.budget_for(sum(lengths)))

    def run(batch: Sequence[int]) -> np.ndarray:
        width = lengths[batch[-1]]
        ids = np.zeros((len(batch), width), np.int64)
        mask = np.zeros_like(ids)
        for row, index in enumerate(batch):
            ids[row, : lengths[index]] = tokens[index].ids
            mask[row, : lengths[index]] = 1
        return runtime.encoder.run(ids, mask)

    found = np.concatenate(list(runtime.pool.map(run, batches)))
    features = np.empty_like(found)
    features[[index for batch in batches for index in batch]] = found
    return features


def _answers(probabilities: np.ndarray, tokens: Sequence[Tokens]) -> list[Scored]:
    return [
        Scored(LABELS[int(row.argmax())], (float(row[0]), float(row[1]), float(row[2])), found.truncated)
        for row, found in zip(probabilities, tokens, strict=True)
    ]
