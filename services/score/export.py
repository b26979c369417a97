"""Hugging Face encoder or classifier → one int8 ONNX file."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx

from services.score import bert
from services.score.base import EXPORT, Encoding, Untraceable
from services.score.quantise import TINY, quantise

if TYPE_CHECKING:
    import torch

OPSET: Final = 17
"""ReduceMax takes its axes as an attribute up to here, and onnxruntime 1.20 reads it."""
SHAPES: Final = ((1, 3), (3, 13), (2, 40))
"""Texts × tokens on which a trace is held against torch: other sizes than the traced one, alone and padded."""
CLOSE: Final = 1e-3
"""Relative to the largest feature; fp32 against fp32 in another order differs by about 1e-6."""


def export(encoding: Encoding, file: Path) -> None:
    """Write the encoding's features, in int8, to `file`.

    Raises:
        Untraceable: torch can't trace such a model, or its trace gives other answers.
    """
    folder = encoding.base.folder
    written = encoding.export == EXPORT and bert.shape(folder).written
    onnx.save(bert.graph(folder, encoding.adapter) if written else quantise(traced(encoding)), str(file))


def traced(encoding: Encoding) -> onnx.ModelProto:
    """The fp32 graph of any encoding, as torch traces it: inputs ids and mask int64[n, t], output features
    float32[n, d]; n and t are free.

    Raises:
        Untraceable: as above.
    """
    import torch

    from services.score.features import module_of

    module = module_of(encoding, "eager", torch.float32)
    ids = torch.ones(2, 8, dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0  # an example without padding would be traced without the mask
    free = {0: "texts", 1: "tokens"}
    content = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        # The tracing exporter is deprecated but needs no further package, and gives the faster graph of the two.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                module,
                (ids, mask),
                content,  # type: ignore[arg-type]  # the stub knows paths only; the tracing exporter takes a buffer
                input_names=["ids", "mask"],
                output_names=["features"],
                dynamic_axes={"ids": free, "mask": free, "features": {0: "texts"}},
                opset_version=OPSET,
                dynamo=False,
            )
            model = onnx.load_from_string(content.getvalue())
            off = difference(model, module)
        except Exception as error:  # each operation that can't be traced raises its own
            raise Untraceable(f"{encoding.base.folder} can't be traced: {type(error).__name__}: {error}") from None
    if not off <= CLOSE:  # nor a number that is none
        raise Untraceable(f"the trace of {encoding.base.folder} is off by {off:.2g}")
    return model


def difference(model: onnx.ModelProto, module: torch.nn.Module) -> float:
    """The largest between the graph's features of padded batches and torch's of each text alone, relative to the
    largest feature."""
    import torch

    from services.score.engine import OnnxEncoder

    graph = OnnxEncoder(model.SerializeToString())
    random = np.random.default_rng(1)
    off, largest = 0.0, TINY
    for texts, tokens in SHAPES:
        ids = random.integers(5, 100, (texts, tokens))
        mask = (np.arange(tokens) < random.integers(1, tokens + 1, (texts, 1))).astype(np.int64)
        mask[0] = 1
        found = graph.run(ids * mask, mask)
        for row, inside in enumerate(mask.astype(bool)):
            alone = (torch.from_numpy(part[row : row + 1, inside]) for part in (ids, mask))
            with torch.inference_mode():
                wanted = module(*alone).numpy()[0]
            off, largest = max(off, float(np.abs(found[row] - wanted).max())), max(largest, float(np.abs(wanted).max()))
    return off / largest
