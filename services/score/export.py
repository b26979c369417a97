"""Hugging Face encoder folder → one int8 ONNX file. Importing this imports torch."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Final

import onnx
import torch

from services.score.features import Features
from services.score.quantise import quantise

OPSET: Final = 17
"""ReduceMax takes its axes as an attribute up to here, and onnxruntime 1.20 reads it."""


def export(folder: Path, file: Path) -> None:
    """Write the features of the encoder in `folder`, in int8, to `file`."""
    onnx.save(quantise(graph(folder)), str(file))


def graph(folder: Path) -> onnx.ModelProto:
    """The fp32 graph: inputs ids and mask int64[n, t], output features float32[n, d]; n and t are free."""
    ids = torch.ones(2, 8, dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0  # an example without padding would be traced without the mask
    free = {0: "texts", 1: "tokens"}
    content = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        # The tracing exporter is deprecated but needs no further package, and gives the faster graph of the two.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Features(folder, "eager", torch.float32),
            (ids, mask),
            content,  # type: ignore[arg-type]  # the stub knows paths only; the tracing exporter takes a buffer
            input_names=["ids", "mask"],
            output_names=["features"],
            dynamic_axes={"ids": free, "mask": free, "features": {0: "texts"}},
            opset_version=OPSET,
            dynamo=False,
        )
    return onnx.load_from_string(content.getvalue())
