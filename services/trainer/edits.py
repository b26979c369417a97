"""Edits that leave a text's label as it is: pure functions of the text, the same for the same text.

They change how a text is written, or whom it is about, never a word that says what happened: a typo falls only on
`PLAIN` words, and a company takes the place of another company.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Final

from services.clean.entities import load
from services.clean.words import TURNS, word_set
from services.stream.events import derived_id

PLAIN: Final = word_set(
    "about after against also among analysts announced around because been before being between board business company"
    " companies corp could during expected from group have have having into investors market markets month months"
    " other owing percent quarterly report reports said says share shares should since some stock stocks than that"
    " their them then there these they this through traders under until week weeks were what when where which while"
    " will with within would year years"
) - TURNS  # fmt: skip
"""Words that carry no label, long enough for a typo that a reader reads over."""

_WORD: Final = re.compile(r"(?<![\w$@#])[A-Za-z]{4,}(?![\w'])")
_CASHTAG: Final = re.compile(r"(?<![\w$])\$[A-Z]{1,6}(?:\.[A-Z]{1,2})?(?![\w$])")
CASHTAGS: Final = ("$AAPL", "$MSFT", "$NVDA", "$ORCL", "$CSCO", "$TXN")


def case(text: str) -> str:
    """All in capitals, or all in small letters; cashtags stay."""
    change = _random("case", text).choice((str.upper, str.lower))
    return re.sub(r"\S+", lambda word: word[0] if word[0].startswith("$") else change(word[0]), text)


def typo(text: str) -> str:
    """Two neighbouring letters within one of the `PLAIN` words change places (Pruthi et al. 2019, "Combating
    Adversarial Misspellings": a reader reads over it); a text without one stays."""
    words = [found for found in _WORD.finditer(text) if found[0].lower() in PLAIN]
    if not words:
        return text
    chance = _random("typo", text)
    found = chance.choice(words)
    word = found[0]
    swaps = [i for i in range(1, len(word) - 2) if word[i] != word[i + 1]]
    if not swaps:
        return text
    at = found.start() + chance.choice(swaps)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def name(text: str) -> str:
    """Every cashtag becomes another, every company of the table another company; a text without stays."""
    chance = _random("name", text)
    text = _CASHTAG.sub(lambda found: chance.choice([tag for tag in CASHTAGS if tag != found[0]]), text)
    companies, pattern = _companies()
    return pattern.sub(lambda found: chance.choice([other for other in companies if other != found[0]]), text)


def space(text: str) -> str:
    """Doubled blanks, and one at the end."""
    return text.replace(" ", "  ") + " "


EDITS: Final[Mapping[str, Callable[[str], str]]] = {"case": case, "typo": typo, "name": name, "space": space}


def _random(kind: str, text: str) -> random.Random:
    return random.Random(derived_id("edit", kind, text))  # noqa: S311 (nothing secret)


@cache
def _companies() -> tuple[list[str], re.Pattern[str]]:
    """Names of companies that are no common words, and what finds them: the longest first. Coins and commodities, which
    are written in small letters, are no companies."""
    names = [name for group in load().by_first_word.values() for name in group]
    others = {name.ticker for name in names if name.any_case}
    written = {" ".join(name.written) for name in names if not name.common and name.ticker not in others}
    longest = sorted(written, key=lambda name: (-len(name), name))
    return longest, re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest))})(?!\w)")
