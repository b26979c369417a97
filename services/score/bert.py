"""BERT's int8 graph, written out node by node: for encoders of this shape the export takes a second and no torch.

It gives the same features as `features.py`, up to rounding, with less work than a traced graph:
- products take one activation scale per token (`quantise.py` says why), shared by query, key and value;
- 1/√d lies in the query's weights; the key's bias is gone, since softmax over the keys doesn't see it; the value's bias
  is carried through the (affine) output product;
- through the last layer only the first token goes, as nothing else is taken from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from onnx import ModelProto, TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from onnx.numpy_helper import from_array
from safetensors.numpy import load_file

from services.score.adapter import Adapter, merged
from services.score.base import CONFIG, OUTSIDE, WEIGHTS
from services.score.quantise import TINY, ZERO, rows

OPSET: Final = 17
CONTRIB: Final = "com.microsoft"


class Shape(msgspec.Struct, frozen=True):
    """What of `config.json` decides whether, and how, the graph can be written."""

    model_type: str
    hidden_size: int = 0
    num_hidden_layers: int = 0
    num_attention_heads: int = 1
    layer_norm_eps: float = 1e-12
    hidden_act: str = ""
    position_embedding_type: str = "absolute"

    @property
    def written(self) -> bool:
        """Whether this module writes such an encoder."""
        return (self.model_type, self.hidden_act, self.position_embedding_type) == ("bert", "gelu", "absolute")


def shape(folder: Path) -> Shape:
    """Of the encoder in `folder`."""
    return msgspec.json.decode((folder / CONFIG).read_bytes(), type=Shape)


def graph(folder: Path, adapter: Adapter) -> ModelProto:
    """The int8 graph: inputs ids and mask int64[n, t], output features float32[n, d]; n and t are free."""
    found = load_file(folder / WEIGHTS)
    weights = {name.removeprefix("bert."): value.astype(np.float32) for name, value in found.items()}
    writer = _Writer(merged(weights, adapter), shape(folder))
    writer.write()
    model = make_graph(
        writer.nodes,
        "encoder",
        [make_tensor_value_info(name, TensorProto.INT64, ["texts", "tokens"]) for name in ("ids", "mask")],
        [make_tensor_value_info("features", TensorProto.FLOAT, ["texts", "width"])],
        writer.constants,
    )
    return make_model(model, opset_imports=[make_opsetid("", OPSET), make_opsetid(CONTRIB, 1)], ir_version=8)


class _Writer:
    """Values are named by running numbers; every method returns the name of what it made."""

    def __init__(self, weights: Mapping[str, np.ndarray], shape: Shape) -> None:
        self._weights = weights
        self._shape = shape
        self.nodes: list[Any] = []
        self.constants: list[TensorProto] = []
        self._one = self._constant(np.float32(1))
        self._tiny = self._constant(np.float32(TINY))
        self._top = self._constant(np.float32(255 - ZERO))
        self._zero = self._constant(np.uint8(ZERO))
        self._flat = self._constant(np.array([-1], np.int64))
        self._rows = self._constant(np.array([-1, shape.hidden_size], np.int64))
        self._first = self._constant(np.int64(0))

    def _constant(self, value: np.ndarray | np.generic) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(from_array(np.asarray(value), name))
        return name

    def _node(self, operation: str, *inputs: str, out: str = "", domain: str = "", **attributes: Any) -> str:
        out = out or f"v{len(self.nodes)}"
        self.nodes.append(make_node(operation, list(inputs), [out], domain=domain, **attributes))
        return out

    def write(self) -> None:
        layers, hidden = self._shape.num_hidden_layers, self._shape.hidden_size
        heads = np.array([self._shape.num_attention_heads, hidden // self._shape.num_attention_heads], np.int64)
        lead = self._node("Shape", "ids")
        self._by_text = self._node("Concat", lead, self._constant(np.array([hidden], np.int64)), axis=0)
        self._by_head = self._node("Concat", lead, self._constant(heads), axis=0)
        self._one_by_head = self._constant(np.array([-1, 1, *heads], np.int64))
        inside = self._node("Cast", "mask", to=TensorProto.FLOAT)
        beyond = self._node("Mul", self._node("Sub", inside, self._one), self._constant(np.float32(OUTSIDE)))
        self._keys_beyond = self._node("Unsqueeze", beyond, self._constant(np.array([1, 2], np.int64)))
        self._tokens_beyond = self._node("Unsqueeze", beyond, self._constant(np.array([2], np.int64)))
        tokens = self._node("ReduceSum", inside, self._constant(np.array([1], np.int64)), keepdims=1)
        self._mean = self._node("Unsqueeze", self._node("Div", inside, tokens), self._constant(np.array([1], np.int64)))

        states = self._node("Reshape", self._embedded(), self._rows)
        parts = []
        for layer in range(layers):
            if layer >= layers - 2:
                parts += self._pooled(states)
            states = self._layer(f"encoder.layer.{layer}", states, first_only=layer == layers - 1)
        self._node("Concat", *parts, states, axis=1, out="features")

    def _embedded(self) -> str:
        """Every token has type 0, whose embedding is added to that of the position."""
        words, positions, types = (
            self._weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
        )
        ids = self._node("Cast", "ids", to=TensorProto.INT32)
        tables = [self._constant(words), self._constant(positions + types[0]), ""]
        norm = [self._constant(self._weights[f"embeddings.LayerNorm.{part}"]) for part in ("weight", "bias")]
        epsilon = self._shape.layer_norm_eps
        node = make_node(
            "EmbedLayerNormalization",
            [ids, "", *tables, *norm],
            ["embedded", "unused"],
            domain=CONTRIB,
            epsilon=epsilon,
        )
        self.nodes.append(node)
        return "embedded"

    def _pooled(self, states: str) -> list[str]:
        """Mean and maximum over a text's tokens."""
        by_text = self._node("Reshape", states, self._by_text)
        mean = self._node("Reshape", self._node("MatMul", self._mean, by_text), self._rows)
        return [mean, self._node("ReduceMax", self._node("Add", by_text, self._tokens_beyond), axes=[1], keepdims=0)]

    def _layer(self, name: str, states: str, *, first_only: bool) -> str:
        weight, bias = self._weight, self._bias
        own = f"{name}.attention.self"
        scale = (self._shape.hidden_size // self._shape.num_attention_heads) ** -0.5
        every = self._quantised(states)
        if first_only:
            states = self._node("Gather", self._node("Reshape", states, self._by_text), self._first, axis=1)
        asked = self._quantised(states) if first_only else every
        query = self._add(self._product(asked, weight(f"{own}.query") * scale), bias(f"{own}.query") * scale)
        key, value = (self._product(every, weight(f"{own}.{part}")) for part in ("key", "value"))
        context = self._attention(query, key, value, self._one_by_head if first_only else self._by_head)
        output = weight(f"{name}.attention.output.dense")
        carried = bias(f"{name}.attention.output.dense") + bias(f"{own}.value") @ output
        attended = self._add(self._product(self._quantised(context), output), carried)
        states = self._normalised(f"{name}.attention.output.LayerNorm", states, attended)
        wide = self._product(self._quantised(states), weight(f"{name}.intermediate.dense"))
        active = self._node("BiasGelu", wide, self._constant(bias(f"{name}.intermediate.dense")), domain=CONTRIB)
        narrow = self._product(self._quantised(active), weight(f"{name}.output.dense"))
        return self._normalised(f"{name}.output.LayerNorm", states, self._add(narrow, bias(f"{name}.output.dense")))

    def _weight(self, name: str) -> np.ndarray:
        """float32[in, out]."""
        return self._weights[f"{name}.weight"].T

    def _bias(self, name: str) -> np.ndarray:
        return self._weights[f"{name}.bias"]

    def _quantised(self, x: str) -> tuple[str, str]:
        """float[n, k] → uint8[n, k] and the scale float[n, 1] of each row."""
        largest = self._node("ReduceMax", self._node("Abs", x), axes=[-1], keepdims=1)
        scale = self._node("Div", self._node("Max", largest, self._tiny), self._top)
        scales = self._node("Reshape", scale, self._flat)
        zeros = self._node("Expand", self._zero, self._node("Shape", scales))
        return self._node("QuantizeLinear", x, scales, zeros, axis=0), scale

    def _product(self, x: tuple[str, str], weight: np.ndarray) -> str:
        whole, scale = rows(weight)
        operands = (x[0], self._constant(whole), self._one, self._constant(scale), self._zero)
        return self._node("Mul", self._node("MatMulIntegerToFloat", *operands, domain=CONTRIB), x[1])

    def _add(self, x: str, bias: np.ndarray) -> str:
        return self._node("Add", x, self._constant(bias))

    def _attention(self, query: str, key: str, value: str, asked: str) -> str:
        """Rows of queries, keys and values → rows of contexts."""
        q = self._node("Transpose", self._node("Reshape", query, asked), perm=[0, 2, 1, 3])
        k = self._node("Transpose", self._node("Reshape", key, self._by_head), perm=[0, 2, 3, 1])
        v = self._node("Transpose", self._node("Reshape", value, self._by_head), perm=[0, 2, 1, 3])
        scores = self._node("Add", self._node("MatMul", q, k), self._keys_beyond)
        context = self._node("MatMul", self._node("Softmax", scores, axis=-1), v)
        return self._node("Reshape", self._node("Transpose", context, perm=[0, 2, 1, 3]), self._rows)

    def _normalised(self, name: str, states: str, change: str) -> str:
        norm = [self._constant(self._weights[f"{name}.{part}"]) for part in ("weight", "bias")]
        total = self._node("Add", states, change)
        return self._node("LayerNormalization", total, *norm, axis=-1, epsilon=self._shape.layer_norm_eps)
