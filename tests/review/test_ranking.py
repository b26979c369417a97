"""What the queue picks, and in which shares; pure."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import numpy as np
import pytest

from services.review.ranking import SHARES, Candidate, far_apart, margin, queue, uncertain


def candidate(number: int, **changes: Any) -> Candidate:
    fields: dict[str, Any] = {
        "prediction_id": f"p{number:04}",
        "text_id": f"t{number:04}",
        "label": "positive",
        "margin": number / 10_000,
        "slices": ("source wire", "language en"),
        "held": False,
        "sampled": False,
    }
    return Candidate(**fields | changes)


def picked(candidates: list[Candidate], n: int = 1_000, seed: int = 1) -> dict[str, list[str]]:
    """Prediction ids by why they were picked."""
    found: dict[str, list[str]] = {}
    for why, chosen in queue(candidates, uncertain(candidates), n, Random(seed)):
        found.setdefault(why, []).append(chosen.prediction_id)
    return found


def test_the_margin_is_between_the_two_likeliest() -> None:
    assert margin((0.1, 0.6, 0.3)) == pytest.approx(0.3)
    assert margin((0.5, 0.0, 0.5)) == 0


def test_the_shares_are_a_whole_and_hold_for_one_text_at_a_time() -> None:
    assert sum(SHARES.values()) == pytest.approx(1)
    plenty = [
        *(candidate(n, held=True) for n in range(1_000)),
        *(candidate(n, words=("positive",), another=True, first=False) for n in range(1_000, 2_000)),
        *(candidate(n, challenger="neutral") for n in range(2_000, 3_000)),
        *(candidate(n) for n in range(3_000, 4_000)),
    ]
    spread = uncertain(plenty)
    seen = Counter(queue(plenty, spread, 1, Random(seed))[0].why for seed in range(2_000))
    for why, share in SHARES.items():
        assert abs(seen[why] / 2_000 - share) < 4 * (share / 2_000) ** 0.5, (why, seen)


def test_held_out_texts_are_only_drawn_evenly_and_stay_until_words_so_drawn_exist() -> None:
    held = [candidate(n, held=True, challenger="neutral") for n in range(40)]
    unasked = candidate(50, held=True, words=("negative",))
    asked = candidate(51, held=True, sampled=True, words=("negative",), first=False)
    found = picked([*held, unasked, asked])
    assert set(found) == {"random"}
    assert set(found["random"]) == {c.prediction_id for c in [*held, unasked]}
    firsts = Counter(queue(held, [], 1, Random(seed))[0].candidate.prediction_id for seed in range(4_000))
    assert min(firsts.values()) > 50, "the least margin, and any other, have the same chance"
    assert max(firsts.values()) < 150


def test_the_rest_goes_to_the_least_margin_among_what_nobody_has_judged_or_holds() -> None:
    open_ = [candidate(n) for n in range(20)]
    judged = candidate(100, margin=0.0, words=("neutral",))
    busy = candidate(101, margin=0.0, first=False)
    assert [c.prediction_id for c in uncertain([*reversed(open_), judged, busy])] == [c.prediction_id for c in open_]


def test_another_opinion_is_asked_where_people_or_model_and_people_differ_first() -> None:
    agreeing = [candidate(n, words=("positive",), another=True, first=False) for n in range(30)]
    corrected = candidate(100, words=("negative",), another=True, first=False)
    contradicting = candidate(101, words=("negative", "neutral"), another=True, first=False)
    challenged = candidate(102, challenger="neutral")
    own = candidate(103, words=("negative", "neutral"), first=False)
    found: list[str] = []
    for seed in range(300):
        picks = queue([*agreeing, corrected, contradicting, challenged, own], [], 33, Random(seed))
        order = [pick.candidate.prediction_id for pick in picks if pick.why == "disagreement"]
        assert order == [name for name in ("p0101", "p0100", "p0102") if name in order]
        found += order
        assert "p0103" not in [pick.candidate.prediction_id for pick in picks], "who said it isn't asked again"
    assert set(found) == {"p0100", "p0101", "p0102"}


def test_a_small_slice_has_the_chance_of_a_large_one() -> None:
    many = [candidate(n, slices=("source wire",)) for n in range(500)]
    few = [candidate(900 + n, slices=("source blog",)) for n in range(20)]
    firsts = Counter(
        pick.candidate.slices[0]
        for seed in range(3_000)
        for pick in queue([*many, *few], uncertain([*many, *few]), 1, Random(seed))
        if pick.why == "slice"
    )
    assert abs(firsts["source blog"] / firsts.total() - 0.5) < 0.12


def test_nothing_is_picked_twice_and_the_end_is_the_end() -> None:
    everything = [
        *(candidate(n, challenger="neutral", slices=("ticker A", "source wire")) for n in range(30)),
        *(candidate(n, held=True) for n in range(30, 60)),
    ]
    picks = queue(everything, uncertain(everything), 1_000, Random(3))
    assert sorted(pick.candidate.prediction_id for pick in picks) == [c.prediction_id for c in everything]


def test_an_opinion_on_what_was_drawn_measures_as_the_first_did() -> None:
    drawn = candidate(1, held=True, sampled=True, words=("neutral",), first=False, another=True)
    unasked = candidate(2, held=True, words=("neutral",), first=False, another=True)
    measures = {p.candidate.prediction_id: p.drawn for p in queue([drawn, unasked], [], 2, Random(1))}
    assert measures == {"p0001": True, "p0002": False}


def test_of_five_copies_one_is_near_the_front() -> None:
    random = np.random.default_rng(1)
    story = random.normal(size=8)
    copies = story + random.normal(scale=0.01, size=(5, 8))
    others = random.normal(scale=3, size=(5, 8))
    features = np.concatenate([copies, others]).astype(np.float32)
    order = far_apart(features, np.zeros((0, 8), np.float32), 6)
    assert order[0] == 0, "with nothing near the first comes first"
    assert sum(i < 5 for i in order) == 1
    near = far_apart(features, story[None].astype(np.float32), 5)
    assert sorted(near) == [5, 6, 7, 8, 9], "what was looked at lately counts as near"
    assert sorted(far_apart(features, np.zeros((0, 8), np.float32), 99)) == list(range(10))
    assert far_apart(features[:0], np.zeros((0, 8), np.float32), 3) == []
