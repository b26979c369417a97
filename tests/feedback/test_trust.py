"""Whom to believe: trust starts at gold and grants, is measured where labels overlap, and never by the model."""

from __future__ import annotations

import random

import pytest
from feedback.makers import Words, of, on
from hypothesis import given
from hypothesis import strategies as st

from services.feedback.trust import QUALIFIED, judge, limit, share

NEGATIVE, NEUTRAL, POSITIVE = range(3)


def test_a_newcomers_word_teaches_little_and_an_operators_nearly_in_full() -> None:
    judged = judge(Words().say("new", "a", POSITIVE).say("boss", "b", NEGATIVE, granted=True))
    assert (on(judged, "a").label, on(judged, "a").weight, on(judged, "a").trusted) == (POSITIVE, 0.25, 0)
    assert on(judged, "b").weight > 0.95 and on(judged, "b").trusted == 1
    assert (of(judged, "new").state, of(judged, "boss").state) == ("newcomer", "operator")


@pytest.mark.parametrize(
    ("right", "state"), [(20, "qualified"), (18, "qualified"), (17, "newcomer"), (4, "distrusted")]
)
def test_about_twenty_gold_answers_qualify(right: int, state: str) -> None:
    judged = judge(Words().gold("ana", right, 20).say("ana", "a", POSITIVE))
    ana = of(judged, "ana")
    assert (ana.state, ana.gold.right, ana.gold.n, ana.words) == (state, right, 20, 1)
    assert (ana.reliability.low >= QUALIFIED) == (state == "qualified")
    if state == "distrusted":
        assert judged.consensus == [] and ana.weight == 0, "says nothing"
        return
    least, most = {"qualified": (0.7, 0.93), "newcomer": (0.25, 0.25)}[state]
    assert least <= on(judged, "a").weight <= most
    assert set(ana.classes) == {"negative", "neutral", "positive"}


def test_fewer_answers_do_not_qualify_however_right_they_are() -> None:
    assert of(judge(Words().gold("ana", 19, 19)), "ana").state == "newcomer"


def test_newcomers_have_one_voice_however_many_they_are() -> None:
    words = Words().gold("ana", 20, 20).say("ana", "a", NEGATIVE)
    for number in range(30):
        words.say(f"sock{number}", "a", POSITIVE).say(f"sock{number}", "b", POSITIVE)
    judged = judge(words)
    assert on(judged, "a").label == NEGATIVE
    assert on(judged, "b").weight <= 0.26


def test_a_ring_that_agrees_with_itself_stays_unknown() -> None:
    words = Words()
    for text in range(100):
        for member in range(8):
            words.say(f"member{member}", f"text{text}", text % 3)
    judged = judge(words)
    assert {annotator.state for annotator in judged.annotators} == {"newcomer"}
    assert all(annotator.reliability.n == 0 for annotator in judged.annotators)


def test_two_qualified_people_overrule_the_model_which_has_no_say() -> None:
    def said(predicted: int) -> Words:
        words = Words().gold("ana", 20, 20).gold("bo", 20, 20)
        return words.say("ana", "a", POSITIVE, predicted=predicted).say("bo", "a", POSITIVE, predicted=predicted)

    judged = judge(said(NEGATIVE))
    assert (on(judged, "a").label, on(judged, "a").trusted, on(judged, "a").sole) == (POSITIVE, 2, None)
    assert on(judged, "a").probability > 0.98
    assert judged.annotators == judge(said(POSITIVE)).annotators


def test_who_is_measured_by_trusted_people_alone_can_qualify() -> None:
    words = Words().gold("ana", 20, 20)
    for text in range(40):
        words.say("ana", f"text{text}", text % 3).say("bo", f"text{text}", text % 3 if text % 10 else (text + 1) % 3)
        words.say("cy", f"text{text}", (text + 1) % 3)
    judged = judge(words)
    assert of(judged, "bo").state == "qualified" and of(judged, "bo").gold.n == 0
    assert 30 < of(judged, "bo").overlaps.right < 38 and of(judged, "bo").overlaps.n == 40
    assert of(judged, "cy").state == "distrusted"


def test_ones_own_word_is_no_evidence_for_it() -> None:
    words = Words().gold("ana", 20, 20)
    for text in range(200):
        words.say("ana", f"text{text}", text % 3)
    ana = of(judge(words), "ana")
    assert (ana.overlaps.n, ana.reliability.n) == (0, 20)


def test_who_was_good_and_turns_is_no_longer_believed() -> None:
    words = Words()
    for who in ("ana", "bo", "cy"):
        words.gold(who, 20, 20)
    for text in range(60):
        words.say("ana", f"text{text}", text % 3).say("bo", f"text{text}", text % 3 if text < 48 else (text + 1) % 3)
        words.say("cy", f"text{text}", text % 3)
    judged = judge(words)
    bo = of(judged, "bo")
    assert bo.reliability.low >= QUALIFIED and bo.state == "turned"
    assert (bo.recent.n, bo.weight) == (30, 0.0)
    last = next(word for word in words if word.id == "bo text47")
    assert bo.good_until == last.given
    assert of(judged, "ana").state == of(judged, "cy").state == "qualified"


def test_of_two_who_begin_to_contradict_each_other_neither_is_believed() -> None:
    words = Words().gold("ana", 20, 20).gold("bo", 20, 20)
    for text in range(60):
        words.say("ana", f"text{text}", text % 3).say("bo", f"text{text}", text % 3 if text < 40 else (text + 1) % 3)
    judged = judge(words)
    assert of(judged, "ana").state == of(judged, "bo").state == "turned"
    assert judged.consensus == []


def test_people_who_contradict_each_other_teach_nothing() -> None:
    judged = judge(Words().say("boss", "a", POSITIVE, granted=True).say("chief", "a", NEGATIVE, granted=True))
    assert on(judged, "a").weight == pytest.approx(0.0, abs=1e-6)


def test_who_knows_one_class_badly_is_believed_less_there() -> None:
    words = Words()
    for n in range(60):  # calls what is neutral positive, and is otherwise right
        words.say("ana", f"gold {n}", POSITIVE if n % 3 == NEUTRAL and n % 2 else n % 3, truth=n % 3)
    words.say("ana", "a", POSITIVE).say("ana", "b", NEGATIVE)
    judged = judge(words)
    assert of(judged, "ana").state == "qualified"
    assert on(judged, "a").weight < on(judged, "b").weight - 0.1
    assert of(judged, "ana").classes["neutral"].low < QUALIFIED < of(judged, "ana").classes["negative"].low


def test_what_is_silent_counts_for_nothing_but_measures_its_author() -> None:
    words = Words().gold("ana", 20, 20).gold("bo", 20, 20)
    for text in range(10):
        words.say("ana", f"text{text}", text % 3).say("bo", f"text{text}", (text + 1) % 3)
    silent = {word.id for word in words if word.who == "bo"}
    judged = judge(words, silent)
    assert all(consensus.label == int(consensus.item[4:]) % 3 for consensus in judged.consensus)
    assert of(judged, "bo").overlaps.n == 10 and of(judged, "bo").overlaps.right < 5
    assert of(judge(words, silent, silent), "bo").overlaps.n == 0


def test_the_order_in_which_words_are_read_is_nothing() -> None:
    words = Words().gold("ana", 18, 20).gold("bo", 12, 20)
    for text in range(30):
        words.say("ana", f"text{text}", text % 3).say("bo", f"text{text}", text % 2)
    judged = judge(words)
    shuffled = judge(random.Random(1).sample(words, len(words)))
    assert shuffled.annotators == judged.annotators
    assert [c[:2] for c in shuffled.consensus] == [c[:2] for c in judged.consensus]


def test_nothing_said_is_nothing_judged() -> None:
    judged = judge([])
    assert (judged.annotators, judged.consensus) == ([], [])


def test_bounds_are_those_of_the_beta_distribution() -> None:
    assert (share(18, 20).low, share(17, 20).low) == (0.7294, 0.6708)
    assert (share(0, 0).low, share(0, 0).high) == (0.05, 0.95)


@given(st.lists(st.floats(0.01, 1e3), min_size=3, max_size=12), st.floats(0, 1e3), st.sampled_from([0.5, 0.4, 0.34]))
def test_nobodys_share_is_above_the_limit(own: list[float], rest: float, most: float) -> None:
    allowed = limit(own, rest, most)
    limited = [min(weight, allowed) for weight in own]
    assert max(limited) <= most * (rest + sum(limited)) * (1 + 1e-9)
    within = max(own) <= most * (rest + sum(own))
    assert not within or limited == own, "nothing is taken from who is within it"
