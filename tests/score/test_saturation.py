"""int8 products without VNNI, where x86 adds two u8 × s8 products in 16 bits, and what doesn't fit saturates.

onnxruntime picks its kernels by what the CPU says of itself and has no switch for that, so what its older kernels do is
done here in numpy: vpmaddubsw adds neighbouring pairs in 16 bits with saturation, vpmaddwd and vpaddd the rest in 32.
That covers the integers: whether a pair saturates, which the weights' range decides, and whether the stored examples'
answers hold when every product of the graph is made so. It doesn't cover onnxruntime's own kernels. Where QEMU is, they
run too, those for AVX2, on a CPU that it makes up; those for AVX-512 without VNNI, and AMX, run only on such machines,
where the stored examples are compared before a model serves (`Engine.warm`).
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import pytest
from onnx.numpy_helper import to_array
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from scipy.special import erf
from score import shapes

from services.score import artifact
from services.score.base import LOGITS, Encoding, find
from services.score.engine import Engine, OnnxEncoder
from services.score.export import export
from services.score.lanes import padded
from services.score.tokens import Tokens

MOST: Final = 63
"""Of a weight, in 7 bits."""
INT16: Final = np.iinfo(np.int16)
WHY: Final = f"2 · 255 · |w| must stay below 2¹⁵, or pairs saturate on a CPU without VNNI: weights take ±{MOST}"
PRODUCTS: Final = {"MatMulInteger", "MatMulIntegerToFloat"}


def without_vnni(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """uint8[n, k] · int8[k, m] → int32[n, m], as kernels without VNNI give it."""
    x, w = x.astype(np.int32), w.astype(np.int32)
    total = np.zeros((len(x), w.shape[1]), np.int32)
    for k in range(0, len(w), 2):
        total += (x[:, k : k + 2] @ w[k : k + 2]).clip(INT16.min, INT16.max)
    return total


def exact(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The same in full."""
    answer: np.ndarray = x.astype(np.int32) @ w.astype(np.int32)
    return answer


@pytest.mark.parametrize(("weight", "fits"), [(MOST, True), (-MOST, True), (64, True), (65, False), (127, False)])
def test_what_fits_a_pair(weight: int, fits: bool) -> None:
    """The emulation saturates where the instruction does: 7 bits are within, 8 are not."""
    x, w = np.full((1, 4), 255, np.uint8), np.full((4, 1), weight, np.int8)
    assert np.array_equal(without_vnni(x, w), exact(x, w)) is fits
    if not fits:
        assert without_vnni(x, w)[0, 0] == 2 * INT16.max


def integer_products(graph: onnx.ModelProto) -> Iterator[tuple[str, np.ndarray]]:
    """The weights of each, by the product's name."""
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type in PRODUCTS:
            yield node.output[0], to_array(constants[node.input[1]])


def exported(encoding: Encoding, folder: Path) -> onnx.ModelProto:
    export(encoding, folder / "encoder.onnx")
    return onnx.load(str(folder / "encoder.onnx"))


@pytest.fixture(scope="module")
def written(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """The bundled model's own graph; not the cached one, which may have been made before a change here."""
    return exported(engine.runtime.encoding, tmp_path_factory.mktemp("bundled"))


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """One that is exported as any model is that isn't BERT."""
    folder = shapes.make("distilbert", tmp_path_factory.mktemp("distilbert"))
    return exported(Encoding(find(str(folder)), export=LOGITS), folder)


@pytest.mark.parametrize(("graph", "layers"), [("written", 6), ("traced", 3)])
def test_exported_weights_keep_within_seven_bits(request: pytest.FixtureRequest, graph: str, layers: int) -> None:
    model: onnx.ModelProto = request.getfixturevalue(graph)
    found = dict(integer_products(model))
    assert len(found) >= 6 * layers, "each layer has six products with weights"
    for name, weights in found.items():
        assert weights.dtype == np.int8, name
        assert np.abs(weights.astype(int)).max() <= MOST, f"{name}: {WHY}"
    others = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    assert len(others) == len(found), "an int8 constant that no product is known to take"


class MatMulIntegerToFloat(OpRun):  # type: ignore[misc]  # onnx has no types
    """onnxruntime's, without VNNI; no product of it may have saturated."""

    op_domain = "com.microsoft"

    def _run(self, x: np.ndarray, w: np.ndarray, _: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> Any:
        found = without_vnni(x, w)
        assert np.array_equal(found, exact(x, w)), WHY
        return ((found - np.int32(zero) * w.sum(0, dtype=np.int32)).astype(np.float32) * scale,)


class BiasGelu(OpRun):  # type: ignore[misc]
    """onnxruntime's."""

    op_domain = "com.microsoft"

    def _run(self, x: np.ndarray, bias: np.ndarray) -> Any:
        total = x + bias
        return ((total * (1 + erf(total / np.sqrt(2))) / 2).astype(np.float32),)


class EmbedLayerNormalization(OpRun):  # type: ignore[misc]
    """onnxruntime's, of words and positions alone."""

    op_domain = "com.microsoft"

    def _run(self, ids: np.ndarray, *rest: np.ndarray, epsilon: float | None = None) -> Any:
        words, positions, weight, bias = (part for part in rest if part is not None)
        total = words[ids] + positions[: ids.shape[1]]
        centred = total - total.mean(-1, keepdims=True)
        normal = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
        return (normal * weight + bias).astype(np.float32), np.zeros(len(ids), np.int32)


def test_the_stored_answers_hold_without_vnni(engine: Engine, written: onnx.ModelProto) -> None:
    """Every product of the graph, of every example, adds its pairs in 16 bits."""
    evaluator = ReferenceEvaluator(written, new_ops=[MatMulIntegerToFloat, BiasGelu, EmbedLayerNormalization])
    tokens = engine.runtime.tokenizer([example.text for example in engine.card.examples])
    ids, mask = padded([found.ids for found in tokens if isinstance(found, Tokens)])
    (features,) = evaluator.run(None, {"ids": ids, "mask": mask})
    assert artifact.differences(engine.card, engine.probabilities(features)) == []
    served = OnnxEncoder(written.SerializeToString()).run(ids, mask)
    assert np.sqrt(np.mean((features - served) ** 2) / np.mean(served**2)) < 0.02, "not the graph that is served"


MISSING: Final = "needs QEMU to be an older CPU: apt-get install qemu-user"
OLDER: Final = """
import numpy, onnxruntime
from onnx import helper
from services.score import artifact
from services.score.engine import open_engine

x, w, y = (helper.make_tensor_value_info(name, kind, [4, 4]) for name, kind in (("x", 2), ("w", 3), ("y", 6)))
graph = helper.make_graph([helper.make_node("MatMulInteger", ["x", "w"], ["y"])], "product", [x, w], [y])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
session = onnxruntime.InferenceSession(model.SerializeToString())
given = {"x": numpy.full((4, 4), 255, numpy.uint8), "w": numpy.full((4, 4), 127, numpy.int8)}
print(session.run(None, given)[0].max())

engine = open_engine(artifact.bundled(), device="cpu", threads=1)
texts = [example.text for example in engine.card.examples]
alone = numpy.concatenate([engine.embed([text]) for text in texts])
print([artifact.differences(engine.card, engine.probabilities(found)) for found in (engine.embed(texts), alone)])
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="Python here isn't one for x86-64")
def test_the_stored_answers_hold_on_an_older_cpu() -> None:
    """onnxruntime's kernels for AVX2 alone, in a batch and text by text; that they saturate shows that it is they."""
    qemu = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
    if qemu is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(MISSING)
    done = subprocess.run(
        [qemu, "-cpu", "Haswell", sys.executable, "-c", OLDER], capture_output=True, text=True, timeout=280
    )
    assert done.stdout.splitlines() == [str(2 * INT16.max), "[[], []]"], done.stderr
