"""Drift: how large the index is for shifts that matter, and that a stream that stays as it is raises no alarm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from services.trainer.drift import LARGE, WINDOW, Window, drift, psi

LABELS = ("negative", "neutral", "positive")


def window(random: np.random.Generator, n: int = WINDOW, **changes: Any) -> Window:
    """Independent texts: two languages, forty sources of unequal size."""
    shares = 1 / np.arange(1, 41)
    made = {
        "confidence": random.beta(5, 2, n).tolist(),
        "labels": random.choice(LABELS, n, p=(0.2, 0.5, 0.3)).tolist(),
        "languages": random.choice(("en", "zh"), n, p=(0.9, 0.1)).tolist(),
        "sources": [f"s{k}" for k in random.choice(40, n, p=shares / shares.sum())],
    }
    return Window(**made | changes)


def test_equal_shares_have_an_index_of_nought() -> None:
    assert psi(["a", "b"] * 50, ["b", "a"] * 50) == 0


def test_the_index_is_the_sum_over_bins_of_difference_times_log_ratio() -> None:
    p, q = 60.5 / 101.5, 30.5 / 101.5
    rest = (40.5 / 101.5, 70.5 / 101.5, 0.5 / 101.5)
    expected = (q - p) * np.log(q / p) + (rest[1] - rest[0]) * np.log(rest[1] / rest[0])
    assert psi(["a"] * 60 + ["b"] * 40, ["a"] * 30 + ["b"] * 70) == pytest.approx(expected)


def test_a_stream_that_stays_as_it_is_never_comes_near_an_alarm() -> None:
    random = np.random.default_rng(0)
    found = [drift(window(random), window(random)).largest[1] for _ in range(100)]
    assert max(found) < LARGE / 5


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("confidence", {"confidence": np.random.default_rng(1).beta(3, 2.5, WINDOW).tolist()}),
        ("labels", {"labels": ["negative"] * (WINDOW // 2) + ["neutral"] * (WINDOW // 2)}),
        ("languages", {"languages": ["en"] * (WINDOW // 2) + ["zh"] * (WINDOW // 2)}),
        ("sources", {"sources": ["s0"] * (WINDOW // 2) + ["a new one"] * (WINDOW // 2)}),
    ],
)
def test_what_has_moved_is_named(name: str, changes: dict[str, Any]) -> None:
    random = np.random.default_rng(2)
    found = drift(window(random), window(random, **changes))
    assert found.largest[0] == name and found.largest[1] > LARGE


def test_a_hundred_small_sources_alarm_no_more_than_ten() -> None:
    random = np.random.default_rng(3)
    sources = ([f"s{k}" for k in random.choice(500, WINDOW)] for _ in range(2))
    assert psi(*sources) < LARGE / 5
