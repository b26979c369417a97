"""Markup, characters, boilerplate, length and times: the pure steps on one text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.clean import boilerplate, html, length, unicode
from services.clean.times import event_time

NOW = 1_760_000_000_000


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("Apple <AAPL.O> up, a < b, <https://x.example/1>", "Apple <AAPL.O> up, a < b, <https://x.example/1>"),
        ("Apple P/E <a third of peers, shares fall 5%", "Apple P/E <a third of peers, shares fall 5%"),
        ("Apple P/E <a third of peers, shares > 5%", "Apple P/E <a third of peers, shares > 5%"),
        ("<a href='/x'>Up</a> <input disabled><br/>5%", "Up\n5%"),
        ("<p>Profit <b>do</b>ubled</p><p>Shares rose</p>", "Profit doubled\nShares rose"),
        ("a<script>if(a<b){}</script><style>p{}</style><!-- x -->b", "ab"),
        ("<table><tr><td>Net<td>5<tr><td>Tax<td>2</table>after", "Net 5\nTax 2\nafter"),
        ("&lt;p&gt;A &amp;amp; B&lt;/p&gt;", "A & B"),
        ("AT&T and R&D; 5 &lt; 6", "AT&T and R&D; 5 < 6"),
        ("<p style='display: none'>spam</p><img src='//t.example/1.gif' width=1>News", "News"),
        ("<![CDATA[<p>In a feed</p>]]>", "In a feed"),
        ("<nav>Home</nav><p>Story</p><footer>(c) us</footer>", "Story"),
    ],
)
def test_html(markup: str, text: str) -> None:
    assert boilerplate.tidy(html.to_text(markup)) == text


def test_text_without_markup_is_the_same_object() -> None:
    text = "Infosys Q2 net up 5%; a > b"
    assert html.to_text(text) is text


@pytest.mark.parametrize(
    ("seen", "meant"),
    [
        ("isnâ€™t â€œoutâ€\x9d", "isn't “out”"),
        ("ＧＭＬＫ ＄４．２０", "GMLK $4.20"),
        ("10² km, ½, ™, ㎡", "10² km, ½, ™, ㎡"),
        ("a\u200bb\u202ec\u2066d\ufeffe\u00adf", "abcdef"),
        ("nul\x00 bell\x07 \x1b[31mred\x1b[0m \x1b]0;title\x07x", "nul bell red x"),
        ("one\u2028two\x0cthree\r\nfour\rfive", "one\ntwo\nthree\nfour\nfive"),
        ("$АРМN and Вuy", "$APMN and Buy"),
        ("Чистая прибыль", "Чистая прибыль"),
        ("lone \ud800 surrogate", "lone  surrogate"),
        ("e\u0301tude", "étude"),
    ],
)
def test_unicode(seen: str, meant: str) -> None:
    assert unicode.repair(seen) == meant


@given(st.text(st.characters(codec=None)))
def test_repaired_text_can_be_stored_anywhere(text: str) -> None:
    repaired = unicode.repair(text)
    repaired.encode()
    assert "\x00" not in repaired


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_printable_ascii_is_left_alone(text: str) -> None:
    assert unicode.repair(text) is text


@pytest.mark.parametrize(
    "text",
    [
        "Netflix subscriber growth slows",
        "Google keeps third-party cookies in Chrome",
        "Sign up numbers at Spotify beat forecasts",
        "Adobe to continue share buyback",
        "Advertisement revenue falls 5%",
        "Privacy policy probe widens at Meta",
        "Lenders accept all bids in gilt auction, BoE says",
        "Subscribe to the IPO of Zomato: Motilal Oswal",
        "Subscribe now to Reliance rights issue, says broker",
        "Copyright policy shift lifts Universal Music shares",
        "By using hedges Southwest beat its policy on fuel terms",
        "We use AI to win, says Google as it kills cookies",
        "We store more in the cloud, says Google as cookies go",
        "You can manage risk by policy, says Goldman",
        "We have updated our terms of the offer in line with policy, Broadcom says",
    ],
)
def test_news_about_boilerplate_is_news(text: str) -> None:
    assert boilerplate.cut(text) == text


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("This site uses cookies to improve your experience. Zinc rose.", "Zinc rose."),
        ("Sales rose.\nRead more: Five charts", "Sales rose."),
        ("Home | Markets | Log in\nCopper fell", "Copper fell"),
        ("Subscribe to our newsletter! Get the day's top stories in your inbox.", ""),
        ("Subscribe now. Sign up for the daily newsletter. Subscribe today for full access to this story.", ""),
        ("By using this site you agree to our terms of use. You can opt out at any time.", ""),
        ("We use cookies. We and our 842 partners store information on your device, such as cookies.", ""),
        ("Copyright 2025 Northgate Press. © Northgate Press. Copyright by the author. All rights reserved.", ""),
    ],
)
def test_boilerplate_is_cut(text: str, kept: str) -> None:
    assert boilerplate.cut(text) == kept


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("🚀🔥 !!! 123", "empty"),
        ("https://x.example/abcdef www.x.example", "empty"),
        ("ok", "too_short"),
        ("null", "too_short"),
        ("涨", "too_short"),
        ("TCS up", None),
        ("大涨了", None),
    ],
)
def test_length(text: str, reason: str | None) -> None:
    assert length.refusal(text) == reason


@pytest.mark.parametrize(
    ("published", "ms", "mark"),
    [
        (None, NOW, ""),
        ("2025-01-02T03:04:05Z", 1_735_787_045_000, ""),
        ("2025-01-02T04:04:05+01:00", 1_735_787_045_000, ""),
        ("2025-01-02 03:04:05", 1_735_787_045_000, ""),
        (1_735_787_045, 1_735_787_045_000, ""),
        ("1735787045", 1_735_787_045_000, ""),
        (1_735_787_045_123, 1_735_787_045_123, ""),
        (1_735_787_045.5, 1_735_787_045_500, ""),
        (NOW + 300_000, NOW + 300_000, ""),
        (NOW + 300_001, NOW, "clamped:future"),
        ("9999-12-31T23:59:59Z", NOW, "clamped:future"),
        ("1970-01-01T00:00:00Z", NOW, "clamped:past"),
        ("0001-01-01T00:00:00+14:00", NOW, "clamped:past"),
        (-5, NOW, "clamped:past"),
        ("yesterday", NOW, "unreadable:published"),
        ("", NOW, "unreadable:published"),
        ("nan", NOW, "unreadable:published"),
        ("1e999", NOW, "unreadable:published"),
        (1e999, NOW, "unreadable:published"),
        (10**400, NOW, "unreadable:published"),
        (-(10**400), NOW, "unreadable:published"),
    ],
)
def test_event_time(published: str | float | None, ms: int, mark: str) -> None:
    assert event_time(published, NOW) == (ms, mark)


@given(st.one_of(st.none(), st.text(), st.integers(), st.integers(10**300, 10**400), st.floats()))
def test_event_time_is_always_one_an_event_can_carry(published: str | float | None) -> None:
    assert 0 <= event_time(published, NOW).ms <= NOW + 300_000
