"""What two copies of one story have in common: its tokens, without what people who pass it on put around it.

Dropped: case, punctuation, articles, links; `RT @x:`, `BREAKING:`, `UPDATE 1-`, a news feed's handle in front; an
agency's name, credits and hashtags of whole trades behind the text. Kept, since a change of them is news: every other
word, numbers with their signs, currency, per cent and comparison signs, and emoji that point up or down.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from services.clean.length import LINK
from services.clean.words import TURNS

MIN_LEFT: Final = 8
"""Nothing is dropped from a text's end that leaves fewer words: what is short is about its every word."""

ARTICLES: Final = frozenset(("a", "an", "the", "and"))

_AGENCY: Final = (
    r"(?:[A-Z][\w.&]{0,30}[ /]){0,3}"
    r"(?:Reuters|Bloomberg|AP|AFP|PTI|IANS|ANI|Xinhua|Dow\sJones|CNBC|MarketWatch|(?:[A-Z]\w{0,20})?[Ww]ire|Press|News"
    r"|Times|Post|Journal|Financial)(?:/[A-Z]\w{1,20})?"
)
_NAME: Final = r"[A-Z][\w.&]{0,30}(?:[ /][A-Z][\w.&]{0,30}){0,3}"
_DASH: Final = r"(?:-{1,2}|[–—|])"
_TRADES: Final = (
    "breaking|breakingnews|business|commodities|earnings|economics|economy|energy|finance|freight|investing|investment"
    "|markets?|news|retail|shipping|stockmarket|stocks|streaming|tech|technology|trading|wallstreet"
)
"""Hashtags that name no company, coin or commodity, so that a change of them is no news."""

_HEAD: Final = re.compile(
    rf"""[^\w@$(+\-#]*(?:
      RT\s+@\w{{1,30}}\s*:?
    | (?:UPDATE|WRAPUP|REFILE)\s?\d{{1,2}}\s?[-–—:] | (?:REFILE)\s?[-–—:]
    | (?i:breaking(?:\snews)?|just\sin|flash|alert|urgent|exclusive|newsflash)\s?[^\w\s$+.,'’%-]+
    | (?i:breaking|just\sin)\s[-–—]
    | (?:[A-Z][A-Z .,/]{{2,30}}\s)?\({_AGENCY}\)\s?[-–—:]+
    )\s*""",
    re.VERBOSE,
)
_FEED: Final = re.compile(
    r"\s*@\w{0,30}(?:alerts?|bot|daily|desk|feed|headlines|media|news|press|times|wire)\s+(?=[A-Z])", re.IGNORECASE
)

_TAIL: Final = re.compile(
    rf"""(?:
      (?:\s|(?<=[.!?"”'’)\]]))\s*(?:{_DASH}\s*{_AGENCY} | \(\s?{_AGENCY}\s?\))
    | (?<=[.!?"”])\s*\(\s?(?:Adds|Updates|Recasts|Corrects|Refiles|Repeats)\s[^()\d]{{1,60}}\)
    | \s*(?:©|\([cC]\))\s?{_NAME} | \s+[vV]ia\s+@\w{{1,30}}
    | \s*\[(?:more|video|photo|\+)\]
    | (?<=[.!?"”])\s*(?:Full\s\w{{4,8}}|Read\smore|More|Source|Link|Story|Details)\s?:
    | (?<=[.!?"”])\s*(?:(?:Reporting|Writing|Compiled|Additional\sreporting|Editing)\sby\s[^\d]{{1,160}})
    | (?:\s+\#(?i:{_TRADES})){{1,8}}
    )\s*$""",
    re.VERBOSE,
)
_TAIL_SIGN: Final = re.compile(r"[\[(|#@©–—]| -|-- |ing by |ompiled by ")
_TAIL_REACH: Final = 220

_CASHTAGS: Final = re.compile(r"(?:\s+\$[A-Za-z.]{1,8}){1,6}\s*$")
_CUT: Final = re.compile(r"\s*(?:\.{3,}|…|\[(?:\.{3}|…)\])\s*$")
_ACRONYM: Final = re.compile(r"\b(?:[a-z]\.){2,}")
_THOUSANDS: Final = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_DASHES: Final = str.maketrans(dict.fromkeys("‐‑‒–—―−", "-"))
_POINT: Final = re.compile(r"(?<![\w.])\.(?=\d)")
# A hyphen between two digits joins a range or a date; behind `Q3` it is a sign. Brackets round a number are a minus.
_PLUS: Final = re.compile(r"[+±] ?(?=[$€£¥₹]?\d)")
_MINUS: Final = re.compile(
    r"(?:(?<!\d)|(?<=[^\W\d_]\d))- ?(?=[$€£¥₹]?\d)|\((?=[$€£¥₹]?[\d.]{1,20} ?(?:%|[a-z]{1,8})?\))"
)
_BRACKETS: Final = re.compile(r"(?<!\w)<(?=[^\W\d])|(?<=\w)>(?!\w)")
"""Of `<AAPL.O>`; other angles compare."""
_TOKEN: Final = re.compile(
    r"[⁺⁻]?\d+(?:\.\d+)*\w*|[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+"
    r"|[⁺⁻$€£¥₹%<>≤≥📈📉🚀💀🔴🟢🟥🟩⬆⬇▲▼△▽↑↓↗↘🔺🔻🔼🔽👍👎🐂🐻✅❌]"
)
_LINKS: Final = re.compile(f"<?{LINK.pattern}", re.IGNORECASE)
_SAME: Final = {"percent": "%", "pct": "%"}


class Canonical(NamedTuple):
    """The story's tokens; `truncated` when its end is missing, and then its last word may be half a one."""

    tokens: list[str]
    truncated: bool
    whole: int
    """How many tokens are surely whole."""


def canonical(text: str) -> Canonical:
    """The story in `text`."""
    if "://" in text or "www." in text:
        text = _LINKS.sub(" ", text).rstrip()
    text = _untail(_behead(text))
    end = text[-8:]
    cut = _CUT.search(end) if end[-1:] in ".…]" else None
    half = cut is not None and _may_be_half(text[: len(text) - len(end) + cut.start()])
    tokens = _tokens(_sans_repeated_cashtags(text))
    return Canonical(tokens, cut is not None, len(tokens) - half)


def names(title: str) -> frozenset[str]:
    """Tokens written with a capital, but for words that turn a story round."""
    capitalised = (word for word in _behead(title).split() if word.lstrip("\"'“‘($#@")[:1].isupper())
    return frozenset(_tokens(" ".join(capitalised))) - TURNS


def _tokens(text: str) -> list[str]:
    folded = text.casefold().replace("'", "").replace("’", "")
    if not folded.isascii():
        folded = folded.translate(_DASHES)
    if "." in folded:
        folded = _POINT.sub("0.", _ACRONYM.sub(lambda match: match[0].replace(".", ""), folded))
    if "," in folded:
        folded = _THOUSANDS.sub("", folded)
    if "-" in folded or "(" in folded:
        folded = _MINUS.sub("⁻", folded)
    if "+" in folded or "±" in folded:
        folded = _PLUS.sub("⁺", folded)
    if "<" in folded or ">" in folded:
        folded = _BRACKETS.sub(" ", folded)
    return [_SAME.get(token, token) for token in _TOKEN.findall(folded) if token not in ARTICLES]


def _may_be_half(text: str) -> bool:
    """Whether the last word may lack its end: not a number, a name, or what could become a word that turns a story."""
    word = text.split()[-1:]
    return bool(word) and word[0].isalpha() and word[0].islower() and not any(t.startswith(word[0]) for t in TURNS)


def _behead(text: str) -> str:
    for _ in range(4):
        match = _HEAD.match(text)
        if match is None:
            break
        text = text[match.end() :]
    match = _FEED.match(text)
    return text[match.end() :] if match else text


def _untail(text: str) -> str:
    for _ in range(4):
        end = text[-_TAIL_REACH:]
        if end[-1:] != ":" and not _TAIL_SIGN.search(end):
            break
        match = _TAIL.search(end)
        if match is None:
            break
        rest = text[: len(text) - len(end) + match.start()]
        if rest.count(" ") + rest.count("\n") < MIN_LEFT - 1:
            break
        text = rest
    return text


def _sans_repeated_cashtags(text: str) -> str:
    """Without closing cashtags that the text names before: `Sunvale (NASDAQ: SNVL) won an order. $SNVL`."""
    match = _CASHTAGS.search(text[-60:]) if "$" in text[-60:] else None
    if match is None:
        return text
    rest = text[: len(text) - len(text[-60:]) + match.start()]
    return (
        rest if all(re.search(rf"\b{re.escape(tag)}\b", rest) for tag in match[0].replace("$", " ").split()) else text
    )
