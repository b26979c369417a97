"""Masks private data: mail addresses, IBANs, payment cards, phone numbers. Precision first: a masked price is a lost
fact.

Each kind has a cheap sign that must be there before its validator runs, so that most texts pay for one search.
"""

from __future__ import annotations

import itertools
import re
from functools import cache
from typing import Final, NamedTuple

import phonenumbers
from pydantic_core import PydanticCustomError
from pydantic_extra_types.payment import PaymentCardBrand, PaymentCardNumber
from schwifty import IBAN, registry
from schwifty.exceptions import SchwiftyException


class Masked(NamedTuple):
    """The text with `[email]`, `[iban]`, `[card]`, `[phone]` in place, and the kinds found."""

    text: str
    kinds: tuple[str, ...] = ()


# Lengths are bounded as in RFC 5321, which also keeps the search linear. Han characters are written without spaces, so
# they belong to the text around.
_HAN: Final = r"\u3400-\u9fff"
_EMAIL: Final = re.compile(
    rf"(?<![^\W{_HAN}])(?<![.+%-])(?:[^\W{_HAN}]|[.+%-]){{1,64}}(?:@|%40)"
    rf"(?:[^\W_{_HAN}]|-){{1,63}}(?:\.(?:[^\W_{_HAN}]|-){{1,63}}){{1,8}}"
)
_SPELT: Final = re.compile(r"[\[(]at[\])]", re.IGNORECASE)
_SPELT_EMAIL: Final = re.compile(
    r"(?<!\w)\w{1,64}(?:(?: ?[\[(]dot[\])] ?|\.)\w{1,64}){0,4} ?[\[(]at[\])] ?"
    r"[a-zA-Z0-9-]{1,63}(?:(?: ?[\[(]dot[\])] ?|\.)[a-zA-Z0-9-]{1,63}){0,3}(?: ?[\[(]dot[\])] ?|\.)[a-zA-Z]{2,63}",
    re.IGNORECASE,
)

_IBAN_START: Final = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?= ?[A-Z0-9]{4}(?: ?[A-Z0-9]{3}))")

_DIGITS: Final = re.compile(
    rf"(?<![^\W{_HAN}])(?<![$€£¥₹.,])\+?\(?\d(?:[ \-/().]{{0,2}}\d){{6,18}}"
    rf"(?![^\W{_HAN}]|%|[.,]\d| ?[元股万亿手吨份美港人户桶])"
)
"""Seven to nineteen digits in groups; not behind a currency sign, before a Chinese unit or part of a decimal."""
_LAST_GROUP: Final = re.compile(r"[ \-/().]{1,2}\d{1,4}$")
_SEVEN_DIGITS: Final = re.compile(r"\d[ \-/().]{0,2}\d[ \-/().]{0,2}\d\D{0,2}\d\D{0,2}\d\D{0,2}\d\D{0,2}\d")

_CARD_SHAPE: Final = re.compile(r"\d{12,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -])\d{6}\2\d{4,5}")
_PHONE_CUE: Final = re.compile(
    r"\b(?:call|phone|telephone|tel|mobile|mob|cell|fax|dial|contact|whatsapp|hotline|helpline|number)\b"
    r"|电话|手机|联系|致电|热线|传真|微信|拨打|咨询",
    re.IGNORECASE,
)
_CUE_REACH: Final = 40
_LOCAL: Final = re.compile(r"\d{3}-\d{4}")
_NORTH_AMERICAN: Final = re.compile(r"(?:1[- ])?(?:\(\d{3}\) ?|\d{3}-)\d{3}-\d{4}")
_DOTTED: Final = re.compile(r"\d{3}\.\d{3}\.\d{4}")
_DATE: Final = re.compile(r"(?:19|20)\d\d[-/.]\d\d[-/.]\d\d|\d\d[-/.]\d\d[-/.](?:19|20)\d\d")
_YEARS: Final = re.compile(r"(?:(?:19|20)\d\d[ \-/]*)+")
_AMOUNT: Final = re.compile(r"\+?\d{1,3}(?: \d{3})+")
REGIONS: Final = ("US", "GB", "DE", "FR", "IN", "SE", "IT", "ES", "NL", "CH", "AU", "JP", "HK", "CN")
"""Whose national formats are tried for a number without a country code."""

MAX_CHECKED: Final = 100
"""Runs of digits looked up in the plans of all regions; in a text of more, what looks like a phone number is one."""


def mask(text: str) -> Masked:
    """Replace what is certainly private."""
    kinds: list[str] = []
    if "@" in text or "%40" in text:
        text = _replaced(_EMAIL, text, "email", kinds)
    if _SPELT.search(text):
        text = _replaced(_SPELT_EMAIL, text, "email", kinds)
    if not _SEVEN_DIGITS.search(text):
        return Masked(text, tuple(kinds))
    text = _ibans(text, kinds)
    text = _numbers(text, kinds)
    return Masked(text, tuple(dict.fromkeys(kinds)))


def mask_address(address: str) -> Masked:
    """Replace mail addresses in a URL or an id, whose digits are no phone numbers."""
    kinds: list[str] = []
    return Masked(_replaced(_EMAIL, address, "email", kinds), tuple(kinds))


def _replaced(pattern: re.Pattern[str], text: str, kind: str, kinds: list[str]) -> str:
    text, count = pattern.subn(f"[{kind}]", text)
    if count:
        kinds.append(kind)
    return text


def _ibans(text: str, kinds: list[str]) -> str:
    parts: list[str] = []
    done = 0
    for match in _IBAN_START.finditer(text):
        end = _iban_end(text, match.start())
        if match.start() < done or not end:
            continue
        parts += text[done : match.start()], "[iban]"
        done = end
        kinds.append("iban")
    return "".join((*parts, text[done:])) if done else text


@cache
def _iban_length(country: str) -> int:
    try:
        return int(registry.get_iban_spec(country).iban_length)
    except SchwiftyException:
        return 0


def _iban_end(text: str, start: int) -> int:
    """Index after a valid IBAN at `start`, 0 where there is none. The country says how long it must be."""
    wanted = _iban_length(text[start : start + 2])
    compact: list[str] = []
    for end in range(start, min(start + 2 * wanted, len(text))):
        if text[end] != " ":
            compact.append(text[end])
        if len(compact) == wanted:
            try:
                IBAN("".join(compact))
            except SchwiftyException:
                return 0
            return end + 1
    return 0


def _numbers(text: str, kinds: list[str]) -> str:
    seen = itertools.count()

    def replace(match: re.Match[str]) -> str:
        before = text[max(0, match.start() - _CUE_REACH) : match.start()]
        found, crowded = match[0], next(seen) >= MAX_CHECKED
        kind = _kind(found, before, crowded=crowded)
        for _ in range(2):  # `4111 1111 1111 1111 12/25`, `+44 20 7946 0132 10 am`
            if kind or not (last := _LAST_GROUP.search(found)):
                break
            found = found[: last.start()]
            kind = _kind(found, before, crowded=crowded) if _stands_alone(found) else ""
        if not kind:
            return match[0]
        kinds.append(kind)
        return f"[{kind}]{match[0][len(found) :]}"

    return _DIGITS.sub(replace, text)


def _kind(found: str, before: str, *, crowded: bool) -> str:
    """`card`, `phone` or '' for a run of digits, given the text before it."""
    if _DATE.match(found) or _YEARS.fullmatch(found):
        return ""
    if _CARD_SHAPE.fullmatch(found):
        if _is_card(re.sub(r"\D", "", found)):
            return "card"
        if len(found) > 15:
            return ""
    return "phone" if _is_phone(found, before, crowded=crowded) else ""


def _stands_alone(found: str) -> bool:
    """Whether digits may be private though more digits follow: a card, or an international number that exists."""
    return _CARD_SHAPE.fullmatch(found) is not None or (found[0] == "+" and _parses(found, None, strictly=True))


def _is_card(digits: str) -> bool:
    """A known issuer's prefix and length, and Luhn; by Luhn alone one order number in ten would pass."""
    try:
        return PaymentCardNumber(digits).brand != PaymentCardBrand.other
    except PydanticCustomError:
        return False


def _is_phone(found: str, before: str, *, crowded: bool) -> bool:
    if found.startswith("+"):
        return not _AMOUNT.fullmatch(found) and _parses(found, None)
    if _NORTH_AMERICAN.fullmatch(found):
        return _parses(found, "US")
    cue = _PHONE_CUE.search(before) is not None
    if cue and (_LOCAL.fullmatch(found) or (_DOTTED.fullmatch(found) and _parses(found, "US"))):
        return True
    # A leading zero is the trunk prefix of most of the world, and no amount starts with one.
    trunk = found[0] in "0(" and len(re.sub(r"\D", "", found)) >= 10
    return (cue or trunk) and "." not in found and (crowded or any(_parses(found, region) for region in REGIONS))


def _parses(found: str, region: str | None, *, strictly: bool = False) -> bool:
    """With a country code the length must be possible; without one the number must be one that region gives out."""
    try:
        number = phonenumbers.parse(found, region)
    except phonenumbers.NumberParseException:
        return False
    check = phonenumbers.is_valid_number if strictly or region else phonenumbers.is_possible_number
    return bool(check(number))
