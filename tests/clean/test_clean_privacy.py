"""Masks: what is private goes, what looks like it stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.clean.privacy import mask


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("mail ir@firm.example.com, now", "mail [email], now"),
        ("j [dot] doe [at] example [dot] com says", "[email] says"),
        ("card 4111 1111 1111 1111 ok", "card [card] ok"),
        ("5555-5555-5555-4444 and 378282246310005", "[card] and [card]"),
        ("IBAN DE89 3704 0044 0532 0130 00 on 4 June", "IBAN [iban] on 4 June"),
        ("TO GB29 NWBK 6016 1331 9268 19 THE ISSUE", "TO [iban] THE ISSUE"),
        ("call +44 20 7946 0132 or (212) 555-0147", "call [phone] or [phone]"),
        ("ticket from 07700 900461: hi", "ticket from [phone]: hi"),
        ("my number, 555-0186.", "my number, [phone]."),
        ("4111 1111 1111 1111 12/25", "[card] 12/25"),
        ("4111-1111-1111-1111 123 is it", "[card] 123 is it"),
        ("4111111111111111 12/25", "[card] 12/25"),
        ("@elonmusk mail me: joe [at] example [dot] com", "@elonmusk mail me: [email]"),
        ("joe (AT) example.com, ann(At)example.com", "[email], [email]"),
        ("kontakt@müller.de", "[email]"),
        ("邮箱joe@example.com联系", "邮箱[email]联系"),
        ("联系电话：13812345678", "联系电话：[phone]"),
        ("电话13812345678联系", "电话[phone]联系"),
        ("卡号4111111111111111", "卡号[card]"),
        ("call +44 20 7946 0132 10 am", "call [phone] 10 am"),
        ("call 212.555.0147", "call [phone]"),
    ],
)
def test_masked(text: str, masked: str) -> None:
    assert mask(text).text == masked


@pytest.mark.parametrize(
    "text",
    [
        "order 4111 1111 1111 1112 shipped",
        "sold $1,250,000,000 on 2025-03-14 at 38.4415",
        "ISIN US0378331005, DE0007164600 and CUSIP 037833100",
        "Trade confirmation 1234567812345678: bought 5,000 at 14.205",
        "EUR/USD 1.0845-1.0847 at 09:30:00.123456 on 20250214",
        "Fiscal years 2019 2020 2021 2022 were loss-making",
        "Share count from 5105105105105 to 510510510510",
        "LEI 5493001KJTIIGC8Y1R12, SEDOL 2046251",
        "DE89 3704 0044 0532 0130 01 fails its check digits",
        "Nifty to reach 8200-8250; Sensex 26,000-26,500",
        "jobs +1 250 000, or 12 345 678 in all",
        "cash tags @elonmusk, @cnbc and $1@2",
        "Case no. 24-11967-0042-8853-1190",
        "0.0012345678 BTC for 1234567.89 USD",
        "联系人称营收13812345678元，成交量13812345678股",
        "净利润13812345678，同比增长",
        "bids (at) 14.20 or (at) 15.35",
        "to reach 212.555.0147 points",
    ],
)
def test_left_alone(text: str) -> None:
    assert mask(text) == (text, ())


@given(
    st.integers(1_000_000, 10**12), st.sampled_from(["$", "€", "Rs ", "", "USD "]), st.sampled_from(["", "%", " crore"])
)
def test_amounts_are_never_masked(amount: int, before: str, after: str) -> None:
    for written in (f"{amount:,}", f"{amount:,}.25", f"{amount}.50"):
        text = f"revenue was {before}{written}{after} in the year"
        assert mask(text).text == text
