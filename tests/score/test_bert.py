"""The written BERT graph against transformers' own BERT, with every bias and norm at random."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from transformers import BertConfig, BertModel

from services.score import bert
from services.score.adapter import Adapter, LowRank, low_rank
from services.score.base import CONFIG, Base, BaseFiles, Encoding
from services.score.engine import OnnxEncoder
from services.score.export import traced
from services.score.features import TorchEncoder
from services.score.quantise import quantise
from services.stream.errors import Rejected

HIDDEN = 64
RANDOM = np.random.default_rng(5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bert")
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=300, hidden_size=HIDDEN, num_hidden_layers=4, num_attention_heads=4, intermediate_size=128
    )
    model = BertModel(config)
    for name, parameter in model.named_parameters():
        # transformers starts biases at nought and norms at one, where a mistake would not show.
        spread = 0.2 if parameter.ndim > 1 else 0.5
        parameter.data = torch.randn_like(parameter) * spread + ("LayerNorm.weight" in name)
    model.save_pretrained(made, safe_serialization=True)
    return made


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    def change(*shape: int) -> LowRank:
        return low_rank(RANDOM.normal(0, 0.3, shape).astype(np.float32), 8)

    return {
        "encoder.layer.0.attention.self.query.weight": change(HIDDEN, HIDDEN),
        "encoder.layer.3.output.dense.weight": change(HIDDEN, 128),
        "encoder.layer.1.attention.self.value.bias": change(HIDDEN),
        "encoder.layer.2.output.LayerNorm.weight": change(HIDDEN),
    }


def encoding(folder: Path, adapter: Adapter) -> Encoding:
    return Encoding(Base(folder, BaseFiles(name="tiny", weights="", tokenizer="", config="")), adapter)


def batch() -> tuple[np.ndarray, np.ndarray]:
    ids = RANDOM.integers(0, 300, (6, 11))
    mask = (np.arange(11) < np.array([[11], [3], [1], [7], [11], [2]])).astype(np.int64)
    return ids * mask, mask


def session(model: onnx.ModelProto, folder: Path) -> OnnxEncoder:
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(model))
    onnx.save(model, str(folder / "encoder.onnx"))
    return OnnxEncoder(folder / "encoder.onnx")


def error(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact**2)))


@pytest.mark.parametrize("changed", [False, True])
def test_features_are_those_of_transformers(folder: Path, adapter: Adapter, tmp_path: Path, changed: bool) -> None:
    chosen = adapter if changed else {}
    ids, mask = batch()
    exact = TorchEncoder(encoding(folder, chosen), "cpu").run(ids, mask)
    assert exact.shape == (6, 5 * HIDDEN)
    written = session(bert.graph(folder, chosen), tmp_path).run(ids, mask)
    by_trace = session(quantise(traced(encoding(folder, chosen))), tmp_path).run(ids, mask)
    assert error(written, exact) < 0.04
    # What is left is rounding: the graph that torch traces has as much of it.
    assert error(written, exact) < 1.3 * error(by_trace, exact)
    if changed:
        assert error(TorchEncoder(encoding(folder, {}), "cpu").run(ids, mask), exact) > 0.2


def test_a_texts_features_do_not_depend_on_its_company(folder: Path, tmp_path: Path) -> None:
    ids, mask = batch()
    encoder = session(bert.graph(folder, {}), tmp_path)
    together = encoder.run(ids, mask)
    for row, length in enumerate(mask.sum(axis=1)):
        alone = encoder.run(ids[row : row + 1, :length], mask[row : row + 1, :length])
        assert np.abs(alone[0] - together[row]).max() < 1e-4


@pytest.mark.parametrize(
    "change", [{"model_type": "roberta"}, {"hidden_act": "relu"}, {"position_embedding_type": "relative_key"}]
)
def test_other_shapes_are_left_to_the_trace(folder: Path, tmp_path: Path, change: dict[str, str]) -> None:
    assert bert.shape(folder).written
    config = msgspec.json.decode((folder / CONFIG).read_bytes())
    (tmp_path / CONFIG).write_bytes(msgspec.json.encode(config | change))
    assert not bert.shape(tmp_path).written


@pytest.mark.parametrize("name", ["encoder.layer.9.output.dense.weight", "encoder.layer.0.output.dense.weight"])
def test_an_adapter_of_another_encoder_is_refused(folder: Path, name: str) -> None:
    stranger = {name: low_rank(np.ones((3, 5), np.float32), 1)}
    with pytest.raises(Rejected, match="doesn't fit the encoder"):
        bert.graph(folder, stranger)
    with pytest.raises(Rejected, match="doesn't fit the encoder"):
        TorchEncoder(encoding(folder, stranger), "cpu")
