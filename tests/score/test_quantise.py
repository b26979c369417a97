"""The quantised product: exact in its integers, bounded in its error, row by row."""

from __future__ import annotations

import numpy as np
import onnxruntime
from onnx import TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from onnx.numpy_helper import from_array

from services.score.quantise import LEVELS, quantise, rows

RANDOM = np.random.default_rng(7)
WEIGHTS = RANDOM.normal(size=(64, 24)).astype(np.float32)


def session() -> onnxruntime.InferenceSession:
    """x[n, t, 64] → x·W and (x·W)·0 + x·W, so that one activation feeds two products."""
    graph = make_graph(
        [
            make_node("MatMul", ["x", "w"], ["a"]),
            make_node("MatMul", ["x", "v"], ["b"]),
            make_node("Add", ["a", "b"], ["y"]),
        ],
        "two products",
        [make_tensor_value_info("x", TensorProto.FLOAT, ["n", "t", 64])],
        [make_tensor_value_info("y", TensorProto.FLOAT, ["n", "t", 24])],
        [from_array(WEIGHTS, "w"), from_array(np.zeros_like(WEIGHTS), "v")],
    )
    model = quantise(make_model(graph, opset_imports=[make_opsetid("", 17)], ir_version=8))
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_weights_keep_within_seven_bits_and_half_a_step() -> None:
    whole, scale = rows(WEIGHTS)
    assert np.abs(whole).max() == LEVELS
    assert np.abs(whole * scale - WEIGHTS).max() <= scale.max() / 2 + 1e-7


def test_products_are_close_and_rows_independent() -> None:
    run = session()
    x = RANDOM.normal(size=(3, 5, 64)).astype(np.float32)
    x[1] *= 1_000  # a loud neighbour
    x[2, 3] = 0
    (answer,) = run.run(None, {"x": x})
    exact = x @ WEIGHTS
    assert np.linalg.norm(answer[0] - exact[0]) < 0.02 * np.linalg.norm(exact[0])
    assert np.array_equal(answer[2, 3], np.zeros(24, np.float32))
    for row in range(3):
        (alone,) = run.run(None, {"x": x[row : row + 1]})
        assert np.allclose(alone[0], answer[row], rtol=1e-5)
