"""Hugging Face encoder folder and adapter → one int8 ONNX file."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Final

import onnx

from services.score import bert
from services.score.adapter import Adapter
from services.score.quantise import quantise

OPSET: Final = 17
"""ReduceMax takes its axes as an attribute up to here, and onnxruntime 1.20 reads it."""


def export(folder: Path, adapter: Adapter, file: Path) -> None:
    """Write the features of the encoder in `folder`, changed by `adapter`, in int8, to `file`."""
    written = bert.shape(folder).written
    onnx.save(bert.graph(folder, adapter) if written else quantise(traced(folder, adapter)), str(file))


def traced(folder: Path, adapter: Adapter) -> onnx.ModelProto:
    """The fp32 graph of any encoder, as torch traces it: inputs ids and mask int64[n, t], output features
    float32[n, d]; n and t are free.
    """
    import torch

    from services.score.features import Features

    ids = torch.ones(2, 8, dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0  # an example without padding would be traced without the mask
    free = {0: "texts", 1: "tokens"}
    content = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        # The tracing exporter is deprecated but needs no further package, and gives the faster graph of the two.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Features(folder, adapter, "eager", torch.float32),
            (ids, mask),
            content,  # type: ignore[arg-type]  # the stub knows paths only; the tracing exporter takes a buffer
            input_names=["ids", "mask"],
            output_names=["features"],
            dynamic_axes={"ids": free, "mask": free, "features": {0: "texts"}},
            opset_version=OPSET,
            dynamo=False,
        )
    return onnx.load_from_string(content.getvalue())
