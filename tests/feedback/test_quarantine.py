"""What is set aside for a person to look at: each reason with its numbers, and none of it of operators."""

from __future__ import annotations

import random
from typing import Any

import pytest
from feedback.makers import STEP, Words

from services.feedback import quarantine
from services.feedback.quarantine import BURST, RUN, Finding
from services.feedback.trust import judge


def found(words: Words, **decided: Any) -> list[Finding]:
    return quarantine.findings(words, judge(words), {reason.replace("_", "-"): ids for reason, ids in decided.items()})  # type: ignore[misc]


def mixed(words: Words, who: str, n: int, start: int = 0, **more: Any) -> Words:
    """An ordinary reader's words."""
    for at in range(n):
        words.say(who, f"text{start + at}", at % 3, **more)
    return words


@pytest.mark.parametrize(("n", "burst"), [(BURST, False), (BURST + 1, True)])
def test_more_words_a_minute_than_anyone_reads(n: int, burst: bool) -> None:
    words = Words()
    for at in range(n):
        words.say("bot", f"text{at}", at % 3, given=at * 900)
    words.say("bot", "later", 0, given=10 * STEP)
    findings = found(words)
    assert bool(findings) == burst
    if burst:
        (finding,) = findings
        assert (finding.annotator, finding.reason) == ("bot", "burst") and f"{n} words within 60 s" in finding.detail
        assert set(finding.words) == {word.id for word in words} - {"bot later"}


def test_nearly_one_label_where_the_others_have_all_three() -> None:
    words = mixed(Words(), "ana", 60)
    for at in range(RUN):
        words.say("fan", f"more{at}", 0 if at % 20 == 7 else 2)
    (finding,) = found(words)
    assert (finding.annotator, finding.reason, finding.subject) == ("fan", "one-sided", "positive")
    assert "47 of 50 words in a row are positive, which 33% of such texts are" in finding.detail
    assert len(finding.words) == 47


def test_one_label_is_no_wonder_where_it_is_everyones() -> None:
    words = Words()
    for at in range(RUN):
        words.say("ana", f"text{at}", 1 if at % 10 else 2).say("bo", f"more{at}", 1 if at % 10 else 0)
    assert found(words) == []


def test_nearly_one_label_of_the_only_reader_is_compared_with_the_model() -> None:
    words = Words()
    for at in range(RUN):
        words.say("fan", f"text{at}", 2, predicted=at % 3)
    assert [finding.reason for finding in found(words)] == ["one-sided"]


def test_who_repeats_anothers_errors() -> None:
    words = Words().gold("ana", 20, 20)
    rng = random.Random(1)
    for text in range(60):
        wrong = (text + 1 + rng.randrange(2)) % 3 if text % 4 == 0 else text % 3
        words.say("ana", f"text{text}", text % 3).say("bo", f"text{text}", wrong).say("echo", f"text{text}", wrong)
    copied = {finding.annotator: finding for finding in found(words) if finding.reason == "copied"}
    assert set(copied) == {"echo"} and copied["echo"].subject == "bo"
    assert "60 of 60 texts" in copied["echo"].detail and "15 of 15 errors" in copied["echo"].detail


def test_who_only_ever_agrees_behind_another() -> None:
    words = mixed(mixed(Words(), "ana", 100), "echo", 100)
    assert [(f.annotator, f.subject) for f in found(words)] == [("echo", "ana")]


def test_people_who_agree_by_themselves_copy_nobody() -> None:
    words = Words()
    for text in range(200):  # either may be first, and each errs alone
        first, second = ("ana", "bo") if text % 2 else ("bo", "ana")
        words.say(first, f"text{text}", (text + (text % 11 == 0)) % 3)
        words.say(second, f"text{text}", (text + (text % 13 == 0)) % 3)
    assert found(words) == []


def test_a_word_against_two_who_agree() -> None:
    words = Words().gold("ana", 20, 20).gold("bo", 20, 20)
    words.say("ana", "a", 2).say("bo", "a", 2).say("cy", "a", 0).say("ana", "b", 2).say("cy", "b", 0)
    (finding,) = found(words)
    assert (finding.annotator, finding.reason, finding.words) == ("cy", "contradicts", ("cy a",))
    assert "1 of 1" in finding.detail


def test_words_since_someone_turned() -> None:
    words = Words().gold("ana", 20, 20).gold("bo", 20, 20).gold("cy", 20, 20)
    for text in range(60):
        words.say("bo", f"alone{text}", text % 3)
        words.say("ana", f"text{text}", text % 3).say("bo", f"text{text}", text % 3 if text < 48 else (text + 1) % 3)
        words.say("cy", f"text{text}", text % 3)
    (finding,) = (finding for finding in found(words) if finding.reason == "turned")
    assert finding.annotator == "bo"
    held = {word for word in finding.words if "alone" in word}
    assert held == {f"bo alone{text}" for text in range(48, 60)}, "behind the last measured word before the run"


def test_who_is_wrong_on_one_exchange_alone() -> None:
    words = Words().gold("ana", 20, 20).gold("bo", 20, 20).gold("cy", 20, 20)
    for text in range(60):
        ours = text % 6 == 0
        tickers = ("TGT.NS",) if ours else ("AAPL",)
        for who in ("bo", "ana", "cy"):
            words.say(who, f"text{text}", (text + (ours and who == "bo")) % 3, tickers=tickers)
    words.say("bo", "alone", 0, tickers=("TGT.NS", "AAPL"))
    findings = {(f.annotator, f.reason, f.subject): f for f in found(words) if f.reason == "ticker"}
    assert set(findings) == {("bo", "ticker", "TGT.NS"), ("bo", "ticker", ".NS")}
    assert "bo alone" in findings["bo", "ticker", "TGT.NS"].words
    assert len(findings["bo", "ticker", "TGT.NS"].words) == 11


def test_operators_are_never_held() -> None:
    words = Words()
    for at in range(2 * BURST):
        words.say("boss", f"text{at}", 2, granted=True, given=at)
    assert found(words) == []


def test_what_a_person_released_is_not_held_again() -> None:
    words = Words()
    for at in range(BURST + 1):
        words.say("bot", f"text{at}", at % 3, given=at)
    (finding,) = found(words)
    assert found(words, burst=finding.words) == []
    words.say("bot", "more", 0, given=BURST + 2)
    assert found(words, burst=finding.words) == [], "nor are they evidence against the next word"
