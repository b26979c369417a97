"""Edits change how a text is written, never what it says."""

from __future__ import annotations

from collections import Counter

import pytest

from services.clean.words import TURNS
from services.demo import readers
from services.trainer.anchors import anchors
from services.trainer.edits import EDITS, PLAIN, case, name, space, typo

TEXTS = [anchor.text for anchor in anchors()]


@pytest.mark.parametrize("kind", EDITS)
def test_an_edit_is_the_same_for_the_same_text_and_changes_many(kind: str) -> None:
    edited = [EDITS[kind](text) for text in TEXTS]
    assert edited == [EDITS[kind](text) for text in TEXTS]
    changed = sum(new != old for new, old in zip(edited, TEXTS, strict=True))
    assert changed > (0 if kind == "name" else 0.3 * len(TEXTS))


def test_case_and_blanks_leave_the_words() -> None:
    for text in [*TEXTS, "Tesla beats as $TSLA soars 12%"]:
        assert case(text).lower() == text.lower()
        assert space(text).split() == text.split()
    assert "$TSLA" in case("Tesla beats as $TSLA soars 12%")


def test_a_typo_turns_two_letters_within_one_plain_word() -> None:
    for text in TEXTS:
        edited = typo(text)
        assert Counter(edited) == Counter(text)
        changed = [(a, b) for a, b in zip(text.split(), edited.split(), strict=True) if a != b]
        assert len(changed) <= 1
        for before, after in changed:
            assert before.strip(".,;:!?()'\"“”-—").lower().split("-")[0] in PLAIN or "-" in before
            assert (before[0], before[-1]) == (after[0], after[-1])


def test_words_that_carry_a_label_are_never_plain() -> None:
    said = (
        "not profit loss beats misses raised cut upgrade downgrade warns record bankruptcy default growth weak strong"
    )
    assert not PLAIN & (TURNS | set(said.split()))


def test_a_company_takes_the_place_of_another_and_the_rest_stays() -> None:
    edited = name("Microsoft profit falls, $MSFT drops; wheat and BTC gain on NASDAQ")
    assert "Microsoft" not in edited and "$MSFT" not in edited
    assert "profit falls, $" in edited and edited.endswith("drops; wheat and BTC gain on NASDAQ")
    assert name("Gold rises as the dollar slips") == "Gold rises as the dollar slips"


def test_hostile_texts_pass() -> None:
    for _, line in readers.stream():
        for edit in EDITS.values():
            edit(line)
    for edit in EDITS.values():
        assert edit("") in ("", " ")
