"""Adapters: near in low rank, the same bytes for the same content, and nothing else is read."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from safetensors.numpy import save

from services.score.adapter import LowRank, from_bytes, low_rank, merged, to_bytes
from services.stream.errors import Rejected

RANDOM = np.random.default_rng(3)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def test_a_change_of_low_rank_comes_back_whole() -> None:
    change = normal(40, 5) @ normal(5, 70)
    weight = normal(40, 70)
    pair = low_rank(change, 5)
    assert (pair.a.shape, pair.b.shape) == ((5, 70), (40, 5))
    assert np.allclose(pair.added_to(weight), weight + change, atol=0.02 * np.abs(change).max())


def test_more_rank_is_nearer_and_the_rank_is_kept() -> None:
    change = normal(30, 30)
    errors = [np.linalg.norm(low_rank(change, rank).added_to(np.zeros((30, 30))) - change) for rank in (1, 10, 29, 99)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01 * np.linalg.norm(change)
    assert np.linalg.matrix_rank(low_rank(change, 10).added_to(np.zeros((30, 30))), tol=0.1) == 10


def test_a_vector_keeps_its_change() -> None:
    change = normal(17)
    assert np.allclose(low_rank(change, 4).added_to(np.ones(17)), 1 + change, atol=2e-3)


def test_equal_adapters_are_equal_bytes_in_any_order() -> None:
    one = {name: low_rank(normal(4, 6), 2) for name in ("b.weight", "a.weight")}
    assert to_bytes(one) == to_bytes(dict(reversed(one.items())))
    found = from_bytes(to_bytes(one))
    assert list(found) == ["a.weight", "b.weight"]
    assert all(np.array_equal(found[name].a, one[name].a) for name in one)


def test_only_what_is_named_changes() -> None:
    weights = {"a.weight": normal(4, 6), "b.weight": normal(2)}
    found = merged(weights, {"a.weight": low_rank(np.ones((4, 6), np.float32), 1)})
    assert np.allclose(found["a.weight"], weights["a.weight"] + 1, atol=1e-3)
    assert found["b.weight"] is weights["b.weight"]


HALF = np.ones((2, 3), np.float16)


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"w.a": HALF}, "not an adapter"),
        ({"w.a": HALF, "w.b": HALF}, "don't fit"),
        ({"w.a": HALF, "w.b": HALF.T.astype(np.float32)}, "float32"),
        ({"w.a": HALF, "w.b": HALF[0]}, "don't fit"),
        ({"w.a": HALF * np.float16(np.nan), "w.b": np.ascontiguousarray(HALF.T)}, "not a number"),
        ({"w.a": HALF, "w.b": np.ascontiguousarray(HALF.T), "w.c": HALF}, r"has no w\.c"),
    ],
)
def test_anything_else_is_refused(tensors: Mapping[str, np.ndarray], why: str) -> None:
    with pytest.raises(Rejected, match=why):
        from_bytes(save(dict(tensors)))


def test_what_is_no_safetensors_is_refused() -> None:
    with pytest.raises(Rejected, match="not an adapter"):
        from_bytes(b"\x80\x04pickle")


def test_a_change_of_another_shape_does_not_fit() -> None:
    pair = LowRank(np.ones((1, 6), np.float16), np.ones((4, 1), np.float16))
    with pytest.raises(Rejected, match="doesn't fit"):
        merged({"w": normal(6, 4)}, {"w": pair})
