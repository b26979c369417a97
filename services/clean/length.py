"""Texts that say nothing: none, only signs, only links; or next to nothing."""

from __future__ import annotations

import re
from typing import Final

MIN_LETTERS: Final = 5
"""Below this (`ok`, `null`, `lol`) no model can tell anything. A Han character counts as two letters."""

LINK: Final = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)

_WORD: Final = re.compile(r"[^\W\d_]{5}")
_LETTER: Final = re.compile(r"[^\W\d_]")
_WIDE: Final = re.compile(r"[\u3400-\u9fff]")


def refusal(text: str) -> str | None:
    """`empty` (no letter outside links), `too_short`, or None."""
    if "://" in text or "www." in text:
        text = LINK.sub(" ", text)
    if _WORD.search(text):
        return None
    letters = len(_LETTER.findall(text))
    if not letters:
        return "empty"
    return "too_short" if letters + len(_WIDE.findall(text)) < MIN_LETTERS else None
