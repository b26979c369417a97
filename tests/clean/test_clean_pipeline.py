"""One text through all the pure steps: what is published of it."""

from __future__ import annotations

import pytest

from services.clean.pipeline import Cleaned, CleanSettings, clean
from services.stream.events import CleanText, Origin, RawText, RejectedText, text_id

from .conftest import NOW

SETTINGS = CleanSettings()


def cleaned(text: str, **fields: str) -> CleanText:
    result = clean(RawText(text=text, **fields), NOW, Origin("texts.raw", 0, 1), SETTINGS)
    assert isinstance(result, Cleaned)
    return result.text


def test_private_data_is_masked_and_said() -> None:
    text = cleaned(
        "Denmoor's profit rose. Write to joe@example.com or call +44 20 7946 0132, pay to DE89 3704 0044 0532 0130 00.",
        title="Card 4111 1111 1111 1111 of a Denmoor client leaked",
    )
    assert text.text == (
        "Card [card] of a Denmoor client leaked\n"
        "Denmoor's profit rose. Write to [email] or call [phone], pay to [iban]."
    )
    assert text.marks == ("masked:email", "masked:iban", "masked:phone", "masked:card")


def test_the_address_and_the_id_are_masked_and_the_text_keeps_its_id() -> None:
    raw = RawText(
        text="Denmoor's profit rose", url="https://x.example/?u=joe@example.com&n=13812345678", id="joe%40x.example"
    )
    result = clean(raw, NOW, Origin("texts.raw", 0, 1), SETTINGS)
    assert isinstance(result, Cleaned)
    assert (result.text.url, result.text.external_id) == ("https://x.example/?u=[email]&n=13812345678", "[email]")
    assert result.text.marks == ("masked:email",)
    assert result.text.text_id == text_id(raw)


def test_full_width_addresses_are_masked() -> None:
    assert cleaned("Denmoor's chief is at joe＠example.com").text == "Denmoor's chief is at [email]"


def test_a_title_is_joined_to_a_body_that_does_not_hold_it() -> None:
    assert cleaned("Its profit rose by a third.", title="Denmoor up").text == "Denmoor up\nIts profit rose by a third."
    assert cleaned("DENMOOR UP: its profit rose.", title="Denmoor up").text == "DENMOOR UP: its profit rose."
    assert cleaned("", title="Denmoor's profit rose").text == "Denmoor's profit rose"


def test_what_was_taken_out_is_said() -> None:
    text = cleaned("<p>Zinc rose.</p><p>Subscribe to our newsletter!</p>")
    assert (text.text, text.marks) == ("Zinc rose.", ("stripped:html", "cut:boilerplate"))
    assert cleaned("Zinc rose. All rights reserved.").marks == ("cut:boilerplate",)
    assert cleaned("Zinc rose.").marks == ()


@pytest.mark.parametrize("text", ["Read more: Tesla recalls 2,000 cars", "Share on Facebook: $DNMR doubles"])
def test_a_text_that_names_a_company_is_never_all_boilerplate(text: str) -> None:
    assert cleaned(text).text == text


def test_prompts_that_name_a_platform_are_boilerplate() -> None:
    result = clean(RawText(text="Share on Facebook"), NOW, Origin("texts.raw", 0, 1), SETTINGS)
    assert isinstance(result, RejectedText)
    assert result.reason == "boilerplate"
