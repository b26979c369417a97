"""Input meant to hurt: time stays linear in its length, output stays storable."""

from __future__ import annotations

import time

import pytest

from services.clean.pipeline import Cleaned, CleanSettings, clean
from services.stream.errors import Rejected
from services.stream.events import LAST_MS, MAX_TEXT_CHARS, CleanText, Origin, RawText, decode, encode

ORIGIN = Origin("texts.raw", 0, 1)
SETTINGS = CleanSettings()

BUDGET_S = 1.5
"""CPU seconds for 200,000 hostile characters; the slowest takes 0.3 on one core."""

SIGNS = """
( [ (( a @ a@ a. a@a. $A# <p <div> <a<!-- &amp; &lt; <b></i> <script> <ul><li> | … ... ! " _ % 漢 Ã© â€™ аa 💎 RT@ U.
GB29NWBK [at] a[dot] http:// www. 1,000, +1- (1) 2020- 4111 ' .” <![CDATA[ \\ \x1b[ \x1b]0 \u0301 \u200b 𝐀 £1 -1 #a
"""
PHRASES = (
    "0 ", "1 ", "1", "4111 1111 ", "call 0", "$A ", "NYSE: A ", "GB29 ", "a [at] ", "a [dot] ", "#a ", " #a", "RT @a: ",
    "BREAKING: ", "- A ", ". - A", "Apple ", "T ", "'s ", "we use cookies ", "accept all ", "cookies. ", "read more: ",
    "subscribe to our ", "(c) A ", "Reporting by A ", "[more] ", "via @a ", "Der die das ", "\n", "a\n", "\t", "u.s.",
    "a" * 64 + "@",
)  # fmt: skip


@pytest.mark.parametrize("unit", [*SIGNS.split(), *PHRASES], ids=ascii)
def test_time_is_bounded(unit: str) -> None:
    run = (unit * (MAX_TEXT_CHARS // len(unit) + 1))[: MAX_TEXT_CHARS - 40]
    for text in (run, f"Shares rose. {run} x!", f"{run}\x0e Shares fell"):
        started = time.process_time()
        result = clean(RawText(text=text), 1_760_000_000_000, ORIGIN, SETTINGS)
        assert time.process_time() - started < BUDGET_S
        encode(result.text if isinstance(result, Cleaned) else result)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"[]",
        b'{"text":7}',
        b'{"text":"\\ud800"}',
        b'{"text":"\xff\xfe"}',
        b'{"text":"a"' + b',"x":[' * 10_000,
        b'{"text":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"text":"a","published":1e999}',
        b'{"text":"' + b"a" * 1_000_000 + b'"}',
    ],
    ids=range(10),
)
def test_what_is_no_text_is_rejected(value: bytes) -> None:
    with pytest.raises(Rejected):
        decode(RawText, value)


@pytest.mark.parametrize("received", [0, 1, LAST_MS])
@pytest.mark.parametrize(
    "published",
    [
        None,
        0,
        -1,
        1e300,
        -1e300,
        2**63,
        10**400,
        "9999-12-31T23:59:59Z",
        "0001-01-01T00:00:00+14:00",
        "never",
        "1e400",
        "",
    ],
)
def test_absurd_times_make_a_text_that_the_next_step_takes(received: int, published: str | float | None) -> None:
    result = clean(RawText(text="Steel output rose", published=published), received, ORIGIN, SETTINGS)
    assert isinstance(result, Cleaned)
    assert decode(CleanText, encode(result.text)) == result.text


def test_brackets_within_a_text_are_only_brackets() -> None:
    text = "Steel output rose " + "(" * 10_000 + "9%" + ")" * 10_000
    result = clean(RawText(text=text), 0, ORIGIN, SETTINGS)
    assert isinstance(result, Cleaned)
    assert result.text.text == text


def test_nul_and_surrogates_reach_no_field_of_a_clean_text() -> None:
    raw = RawText(text="Profit\x00 fell", source="a\x00b", id="x\x00", url="http://\x00x", title="t\x00itle of it")
    result = clean(raw, 0, ORIGIN, SETTINGS)
    assert isinstance(result, Cleaned)
    assert b"\\u0000" not in encode(result.text)
