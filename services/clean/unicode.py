"""Characters: mojibake repaired, invisible ones removed, look-alikes unified. ASCII text passes at the cost of a
glance.

Full NFKC would turn `10²` into `102` and `½` into `1⁄2`; so only forms that stand for a plain letter, digit, @
or currency sign are unified: full-width, ligatures, mathematical alphabets.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from ftfy import fix_encoding


def _span(*ranges: tuple[int, int]) -> Iterable[int]:
    return (code for first, last in ranges for code in range(first, last + 1))


_DROPPED: Final = _span(
    (0x00, 0x08), (0x0E, 0x1F), (0x7F, 0x84), (0x86, 0x9F),  # controls; NUL is refused by PostgreSQL
    (0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180E),
    (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0), (0xFFF9, 0xFFFB), (0xE0000, 0xE007F), (0xE0100, 0xE01EF),
    (0xD800, 0xDFFF),  # lone surrogates can't be encoded
)  # fmt: skip
_SPACES: Final = _span(
    (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000)
)
_LINES: Final = (0x0B, 0x0C, 0x85, 0x2028, 0x2029)
_COMPATIBLE: Final = _span(
    (0xFF04, 0xFF05), (0xFF0B, 0xFF0B), (0xFF0D, 0xFF0E), (0xFF10, 0xFF19), (0xFF20, 0xFF3A), (0xFF41, 0xFF5A),
    (0xFE6B, 0xFE6B), (0xFFE0, 0xFFE1), (0xFFE5, 0xFFE6), (0xFB00, 0xFB06), (0x1D400, 0x1D7FF),
)  # fmt: skip

_TABLE: Final[dict[int, str | None]] = {
    **dict.fromkeys(_DROPPED),
    **dict.fromkeys(_SPACES, " "),
    **dict.fromkeys(_LINES, "\n"),
    **{code: unicodedata.normalize("NFKC", chr(code)) for code in _COMPATIBLE},
    ord("‘"): "'",
    ord("’"): "'",
}

_MAYBE_MOJIBAKE: Final = re.compile(r"[\x80-\xff\u0400-\u04ff\u2500-\u257f]")
"""What UTF-8's lead bytes become in the code pages it is misread in."""

_ESCAPE: Final = re.compile(r"\x1b(?:\[[0-?]{0,32}[@-~]|\][^\x07\x1b]{0,256}\x07)")
_OVERPRINT: Final = re.compile(r"[\u0334-\u0338]|[\u0300-\u036f]{2,}")
_FOREIGN_LETTERS: Final = re.compile(r"[\u0370-\u04ff]")
_WORD: Final = re.compile(r"[A-Za-z\u0370-\u04ff]+")
_LOOKALIKES: Final = str.maketrans(
    "АВЕКМНОРСТУХЅІЈаеорсухіјѕΑΒΕΖΗΙΚΜΝΟΡΤΥΧο",
    "ABEKMHOPCTYXSIJaeopcyxijsABEZHIKMNOPTYXo",
)


def repair(text: str) -> str:
    """The text its writer saw: one encoding, no controls, no invisible characters, lines as `\\n`."""
    if text.isascii():
        return text if text.isprintable() else _visible(text)
    text = _visible(fix_encoding(text) if _MAYBE_MOJIBAKE.search(text) else text)
    if not unicodedata.is_normalized("NFC", text):
        text = _OVERPRINT.sub("", unicodedata.normalize("NFC", text))
    if _FOREIGN_LETTERS.search(text):
        text = _WORD.sub(_one_script, text)
    return text


def _visible(text: str) -> str:
    if "\x1b" in text:
        text = _ESCAPE.sub("", text)
    return text.replace("\r\n", "\n").replace("\r", "\n").translate(_TABLE)


def _one_script(match: re.Match[str]) -> str:
    """Latin for the Cyrillic or Greek look-alikes in a word that also has Latin letters; other words as they are."""
    word = match[0]
    latin = word.translate(_LOOKALIKES)
    return latin if latin.isascii() and not _FOREIGN_LETTERS.fullmatch(word) and _has_latin(word) else word


def _has_latin(word: str) -> bool:
    return any(letter.isascii() for letter in word)
