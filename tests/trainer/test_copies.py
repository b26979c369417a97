"""What lies on one side of the border: copies at any time, other tellings within the embargo."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest

from services.trainer import copies
from services.trainer.copies import EMBARGO_MS, Pair, pairs

AT = 1_700_000_000_000
STORY = "Copper rallies to a ten-month high as the strike at Escondida drags on"
COPIED = "BREAKING: Copper rallies to a ten-month high as strike at Escondida drags on - Reuters"
RETOLD = "Copper at ten-month high as strike drags on at the Escondida mine in Chile"
OTHER = "Wheat slips as rains return to the plains of Kansas and Nebraska"


class One(NamedTuple):
    text: str
    at: int = AT


@pytest.mark.parametrize(
    ("text", "at", "found"),
    [
        (COPIED, AT, [Pair(0, 0, True)]),
        (COPIED, AT + 100 * EMBARGO_MS, [Pair(0, 0, True)]),
        (COPIED, 0, [Pair(0, 0, True)]),
        (RETOLD, AT + EMBARGO_MS, [Pair(0, 0, False)]),
        (RETOLD, AT - EMBARGO_MS, [Pair(0, 0, False)]),
        (RETOLD, AT + EMBARGO_MS + 1, []),
        (RETOLD, 0, []),
        (OTHER, AT, []),
        ("", AT, []),
    ],
)
def test_a_text_and_a_story(text: str, at: int, found: list[Pair]) -> None:
    assert list(pairs([One(text, at)], [One(STORY)])) == found


def test_pairs_are_those_of_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "CHUNK", 7)
    rng = random.Random(0)
    left, right = ([One(" ".join(rng.choices("abcdefgh", k=rng.randint(1, 9)))) for _ in range(50)] for _ in range(2))

    def similarity(a: One, b: One) -> float:
        one, other = (set(x.text.split()) - {"a"} for x in (a, b))  # an article
        return len(one & other) / max(1, len(one | other))

    expected = {
        Pair(i, j, similarity(a, b) >= copies.COPY)
        for i, a in enumerate(left)
        for j, b in enumerate(right)
        if similarity(a, b) >= copies.RETOLD
    }
    assert set(pairs(left, right)) == expected and len(expected) > 50


def test_nothing_on_a_side_pairs_with_nothing() -> None:
    assert list(pairs([], [One(STORY)])) == list(pairs([One(STORY)], [])) == []
