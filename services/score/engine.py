"""The engine: texts in, as many answers out, in the same order.

An engine is one model on one device and never changes; a swap is another engine that shares the encoder with it, put
in its place by whoever holds it. So a call is answered by one model from end to end, and engines may be called from
several threads.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from services.score import artifact
from services.score.artifact import Model, ModelCard
from services.score.base import TOKENIZER, Encoding, check, exported, find, key_of
from services.score.batching import BUDGET
from services.score.lanes import Lanes, Pending, Priority
from services.score.tokens import Tokenizer, Tokens
from services.stream.errors import Misconfigured, Rejected
from services.stream.events import LABELS, Label

GPU_BUDGET: Final = 16_384
"""Tokens of a batch on a GPU, which is idle at a CPU's."""
GPU_LANES: Final = 2
"""One batch is padded and copied while the other is computed."""
CHUNK: Final = 2_048
"""Texts that are tokenised while the lanes work on those before. Texts of like length are only looked for within."""
SLOW_FUSION: Final = "SkipLayerNormFusion"
"""onnxruntime's: on a CPU its SkipLayerNormalization takes six times as long as the Add and LayerNormalization that it
replaces."""


class Scored(NamedTuple):
    """One text's answer. `probabilities` in the order of `LABELS`, summing to 1; `truncated` when only its start was
    read."""

    label: Label
    probabilities: tuple[float, float, float]
    truncated: bool


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
        self._session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"], disabled_optimizers=[SLOW_FUSION]
        )

    def run(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """See `Encoder`."""
        features: np.ndarray = self._session.run(None, {"ids": ids, "mask": mask})[0]
        return features


class Runtime(NamedTuple):
    """The expensive part, shared by all engines with the same features: their encoder and tokenizer."""

    encoding: Encoding
    tokenizer: Tokenizer
    lanes: Lanes

    @property
    def key(self) -> str:
        """Equal for equal features."""
        return self.encoding.key


def open_runtime(encoding: Encoding, *, device: str = "auto", threads: int = 0, cache: Path | None = None) -> Runtime:
    """Load an encoder, exporting it first where this machine hasn't yet. `device` is auto, cpu or cuda.

    Raises:
        Misconfigured: cuda is asked for and there is none, or `device` is something else.
    """
    folder = encoding.base.folder
    tokenizer = Tokenizer(folder / TOKENIZER)
    if _on_gpu(device):
        from services.score.features import TorchEncoder  # imports torch

        return Runtime(
            encoding, tokenizer, Lanes(TorchEncoder(folder, encoding.adapter, "cuda"), GPU_BUDGET, GPU_LANES)
        )
    return Runtime(encoding, tokenizer, Lanes(OnnxEncoder(exported(encoding, cache)), BUDGET, threads or _cores()))


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
        return self.runtime.lanes.encoder.device

    def score(self, texts: Sequence[str], priority: Priority = Priority.STREAM) -> list[Scored | Rejected]:
        """As many answers as texts, in order; `Rejected` in the place of a text that can't be scored."""
        return self.begin(texts, priority).result()

    def begin(self, texts: Sequence[str], priority: Priority) -> Scoring:
        """As `score`, for a caller who may give up before the answers are there."""
        return Scoring(self, list(_submitted(self.runtime, texts, priority)))

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
        """Score the stored examples and prove the model by them; then warm the lanes, so that the first batch meets
        warm caches, whatever its size.

        Raises:
            Misconfigured: an example's label or probabilities aren't the stored ones, which the message shows; or the
                encoder fails on a text of some length.
            Rejected: an example can't be tokenised or encoded.
        """
        texts = [example.text for example in self.card.examples]
        answers = self.probabilities(self.embed(texts))
        wrong = artifact.differences(self.card, answers)
        if wrong:
            raise Misconfigured(
                f"model {self.card.version} on {self.device} does not give its stored answers: {'; '.join(wrong)}"
            )
        tokens = [found.ids for found in self.runtime.tokenizer(texts) if isinstance(found, Tokens)]
        self.runtime.lanes.warm(list(itertools.chain(*tokens)))


def open_engine(
    folder: Path, *, device: str = "auto", threads: int = 0, share: Engine | None = None, cache: Path | None = None
) -> Engine:
    """Load, verify and warm the model in `folder`; with the same features it shares the runtime of `share`.

    Raises:
        Rejected: the model isn't what its card says.
        Misconfigured: its encoder isn't here or is another, or it doesn't give its stored answers.
    """
    model = artifact.load(folder)
    if share is not None and share.runtime.key == key_of(model.card.base, model.card.adapter):
        runtime = share.runtime
    else:
        base = find(model.card.base.name)
        check(base.files, model.card.base)
        runtime = open_runtime(Encoding(base, model.adapter), device=device, threads=threads, cache=cache)
    engine = Engine(runtime, model)
    engine.warm()
    return engine


class Scoring:
    """A call under way."""

    def __init__(self, engine: Engine, chunks: Sequence[_Chunk]) -> None:
        self._engine = engine
        self._chunks = chunks

    def cancel(self) -> None:
        """What no lane has taken yet is never computed, and whoever waits gets a `CancelledError`."""
        for chunk in self._chunks:
            chunk.pending.cancel()

    def result(self) -> list[Scored | Rejected]:
        """See `Engine.score`."""
        return [answer for chunk in self._chunks for answer in self._answers(chunk)]

    def _answers(self, chunk: _Chunk) -> Iterator[Scored | Rejected]:
        features, failed = chunk.pending.result()
        rows = iter(self._engine.probabilities(features).tolist() if len(features) else ())
        numbers = itertools.count()
        for found in chunk.tokens:
            if isinstance(found, Rejected):
                yield found
                continue
            row, number = next(rows), next(numbers)
            label = LABELS[row.index(max(row))]
            yield failed.get(number) or Scored(label, (row[0], row[1], row[2]), found.truncated)


class _Chunk(NamedTuple):
    tokens: list[Tokens | Rejected]
    pending: Pending
    """Of those that could be tokenised."""


def _submitted(runtime: Runtime, texts: Sequence[str], priority: Priority) -> Iterator[_Chunk]:
    for at in range(0, len(texts), CHUNK):
        tokens = runtime.tokenizer(texts[at : at + CHUNK])
        good = [found.ids for found in tokens if isinstance(found, Tokens)]
        yield _Chunk(tokens, runtime.lanes.submit(good, priority))


def embed(runtime: Runtime, texts: Sequence[str]) -> np.ndarray:
    """Features float32[n, d] of texts, without a model.

    Raises:
        Rejected: a text can't be tokenised or encoded.
    """
    found = []
    for tokens, pending in list(_submitted(runtime, texts, Priority.STREAM)):
        features, failed = pending.result()
        for why in (*(one for one in tokens if isinstance(one, Rejected)), *failed.values()):
            raise why
        found.append(features)
    return np.concatenate(found)
