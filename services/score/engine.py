"""The engine: texts in, as many answers out, in the same order.

An engine is one model on one device and never changes; a swap is another engine that shares the encoder with it, put
in its place by whoever holds it. So a call is answered by one model from end to end, and engines may be called from
several threads.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from services.score import artifact
from services.score.artifact import Model, ModelCard
from services.score.base import Encoding, LongTexts, Untraceable, check, exported, find, key_of
from services.score.batching import BUDGET
from services.score.device import choose, lanes
from services.score.lanes import Lanes, Pending, Priority
from services.score.tokens import Tokenizer, Tokens
from services.stream.errors import Misconfigured, Rejected
from services.stream.events import LABELS, Label

GPU_BUDGET: Final = 16_384
"""Tokens of a batch on a GPU, which is idle at a CPU's."""
CHUNK: Final = 2_048
"""Texts that are tokenised while the lanes work on those before. Texts of like length are only looked for within."""
SLOW_FUSION: Final = "SkipLayerNormFusion"
"""onnxruntime's: on a CPU its SkipLayerNormalization takes six times as long as the Add and LayerNormalization that it
replaces."""

log = logging.getLogger(__name__)


class Scored(NamedTuple):
    """One text's answer. `probabilities` in the order of `LABELS`, summing to 1; `truncated` when only its start was
    read. Of a text in windows they are the mean, weighted by tokens. `abstained` when the greatest of them is below the
    model's threshold; the label is the likeliest all the same."""

    label: Label
    probabilities: tuple[float, float, float]
    truncated: bool
    abstained: bool = False


class OnnxEncoder:
    """The exported encoder on the CPU. Each `run` takes one core: batches side by side don't wait for each other, as
    threads within a batch do."""

    device = "cpu"

    def __init__(self, graph: Path | bytes) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else its builds report to Microsoft; read at the import
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            graph if isinstance(graph, bytes) else str(graph),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=[SLOW_FUSION],
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


def open_runtime(
    encoding: Encoding,
    *,
    device: str = "auto",
    threads: int = 0,
    cache: Path | None = None,
    long_texts: LongTexts = "truncate",
) -> Runtime:
    """Load an encoder, exporting it first where this machine hasn't yet. `device` is auto, cpu or cuda (`choose`); on
    the CPU, torch runs what can't be exported.

    Raises:
        Misconfigured: cuda is asked for and there is none, or `device` is something else; or the encoder's files don't
            hold what is taken from it.
    """
    threadpool_limits(1, "blas")  # numpy's threads spin on after each head's product, on cores that the lanes need
    tokenizer = Tokenizer(encoding.base.folder, long_texts)
    chosen = choose(device)
    log.info("scoring on %s: %s", *chosen)
    if chosen.device == "cuda":
        from services.score.features import TorchEncoder  # imports torch

        return Runtime(encoding, tokenizer, Lanes(TorchEncoder(encoding, "cuda"), GPU_BUDGET, lanes("cuda", threads)))
    try:
        file = exported(encoding, cache)
    except Untraceable as why:
        from services.score.features import TorchEncoder

        log.warning("%s; torch runs it in fp32, which is slower", why)
        return Runtime(encoding, tokenizer, Lanes(TorchEncoder(encoding, "cpu"), BUDGET, 1))
    return Runtime(encoding, tokenizer, Lanes(OnnxEncoder(file), BUDGET, lanes("cpu", threads)))


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

    def embed(self, texts: Sequence[str], priority: Priority = Priority.STREAM) -> np.ndarray:
        """Features float32[n, d], what a head is trained on.

        Raises:
            Rejected: a text can't be tokenised.
        """
        return embed(self.runtime, texts, priority)

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
        self.runtime.lanes.warm(list(itertools.chain(*tokens)), self.runtime.tokenizer.most)


def open_engine(
    folder: Path,
    *,
    device: str = "auto",
    threads: int = 0,
    share: Engine | None = None,
    cache: Path | None = None,
    long_texts: LongTexts = "truncate",
) -> Engine:
    """Load, verify and warm the model in `folder`; with the same features it shares the runtime of `share`.

    Raises:
        Rejected: the model isn't what its card says.
        Misconfigured: its encoder isn't here or is another, or it doesn't give its stored answers.
    """
    model = artifact.load(folder)
    if share is not None and share.runtime.key == key_of(model.card.base, model.card.adapter, model.card.export):
        runtime = share.runtime
    else:
        base = find(model.card.base.name)
        check(base.files, model.card.base)
        encoding = Encoding(base, model.adapter, model.card.export)
        runtime = open_runtime(encoding, device=device, threads=threads, cache=cache, long_texts=long_texts)
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
        good = [found for found in chunk.tokens if isinstance(found, Tokens)]
        # Where every text failed, there are no features to say how many there would be.
        means = _means(self._engine.probabilities(features), good) if features.size else np.zeros((len(good), 3))
        rows = iter(means.tolist())
        number, threshold = 0, self._engine.card.threshold or 0.0
        for found in chunk.tokens:
            if isinstance(found, Rejected):
                yield found
                continue
            row, windows = next(rows), range(number, number + 1 + len(found.more))
            number = windows.stop
            why = next((failed[window] for window in windows if window in failed), None)
            most = max(row)
            answer = Scored(LABELS[row.index(most)], (row[0], row[1], row[2]), found.truncated, most < threshold)
            yield why or answer


def _means(rows: np.ndarray, texts: Sequence[Tokens]) -> np.ndarray:
    """Answers to the windows of n texts → float64[n, 3], weighted by tokens."""
    if len(rows) == len(texts):
        return rows
    weights = np.array([len(ids) for text in texts for ids in (text.ids, *text.more)], np.float64)[:, None]
    starts = _starts(texts)
    means: np.ndarray = np.add.reduceat(rows * weights, starts) / np.add.reduceat(weights, starts)
    return means


def _starts(texts: Sequence[Tokens]) -> np.ndarray:
    """int64[n]: the place of each text's first window among all windows."""
    return np.cumsum([0, *(1 + len(text.more) for text in texts[:-1])])


class _Chunk(NamedTuple):
    tokens: list[Tokens | Rejected]
    pending: Pending
    """Of the windows of those that could be tokenised, in order."""


def _submitted(runtime: Runtime, texts: Sequence[str], priority: Priority) -> Iterator[_Chunk]:
    for at in range(0, len(texts), CHUNK):
        tokens = runtime.tokenizer(texts[at : at + CHUNK])
        windows = [ids for found in tokens if isinstance(found, Tokens) for ids in (found.ids, *found.more)]
        yield _Chunk(tokens, runtime.lanes.submit(windows, priority))


def embed(runtime: Runtime, texts: Sequence[str], priority: Priority = Priority.STREAM) -> np.ndarray:
    """Features float32[n, d] of texts, without a model; of a text in windows those of its first.

    Raises:
        Rejected: a text can't be tokenised or encoded.
    """
    found = []
    for tokens, pending in list(_submitted(runtime, texts, priority)):
        features, failed = pending.result()
        for why in (*(one for one in tokens if isinstance(one, Rejected)), *failed.values()):
            raise why
        found.append(features[_starts([one for one in tokens if isinstance(one, Tokens)])])
    return np.concatenate(found)
