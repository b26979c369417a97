"""What two copies of one story have in common: its tokens, without what people who pass it on put around it.

Dropped: case, punctuation, articles, links; `RT @x:`, `BREAKING:`, `UPDATE 1-` in front; an agency's name, credits
and small hashtags behind a finished sentence. Kept, since a change of them is news: every other word, numbers with
their signs, currency and per cent signs, and emoji that point up or down.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from services.clean.length import LINK

MIN_LEFT: Final = 8
"""Nothing is dropped from a text's end that leaves fewer words: what is short is about its every word."""

ARTICLES: Final = frozenset(("a", "an", "the", "and"))

_AGENCY: Final = (
    r"(?:[A-Z][\w.&]{0,30}[ /]){0,3}"
    r"(?:Reuters|Bloomberg|AP|AFP|PTI|IANS|ANI|Xinhua|Dow\sJones|\w{0,20}(?:[Ww]ire|[Pp]ress)|News|Times|Post)"
)
_NAME: Final = r"[A-Z][\w.&]{0,30}(?:[ /][A-Z][\w.&]{0,30}){0,3}"
_DASH: Final = r"(?:-{1,2}|[–—|])"

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
_MENTION: Final = re.compile(r"\s*@\w{1,30}\s+(?=[A-Z])")
MIN_AFTER_MENTION: Final = 12
"""Words that must follow a reply's leading @name before it may be dropped: a short text may be about that name."""

_TAIL: Final = re.compile(
    rf"""(?:
      (?<=[.!?"”'’)\]])\s*{_DASH}\s*{_NAME} | \s{_DASH}\s*{_AGENCY}
    | (?<=[.!?"”])\s*\(\s?(?:{_NAME}|(?:Adds|Updates|Recasts|Corrects|Refiles|Repeats)\s[^()\d]{{1,60}})\s?\)
    | \s*(?:©|\([cC]\))\s?{_NAME} | \s+[vV]ia\s+@\w{{1,30}}
    | \s*\[(?:more|video|photo|\+)\]
    | (?<=[.!?"”])\s*(?:Full\s\w{{4,8}}|Read\smore|More|Source|Link|Story|Details)\s?:
    | (?<=[.!?"”])\s*(?:(?:Reporting|Writing|Compiled|Additional\sreporting|Editing)\sby\s[^\d]{{1,160}})
    | (?<=[.!?"”\w])(?:\s+\#[a-z]\w{{1,30}}){{1,8}}
    )\s*$""",
    re.VERBOSE,
)
_TAIL_SIGN: Final = re.compile(r"[\[(|#@©–—]| -|-- |ing by |ompiled by ")
_TAIL_REACH: Final = 220

_CASHTAGS: Final = re.compile(r"(?:\s+\$[A-Za-z.]{1,8}){1,6}\s*$")
_CUT: Final = re.compile(r"\s*(?:\.{3,}|…|\[(?:\.{3}|…)\])\s*$")
_ACRONYM: Final = re.compile(r"\b(?:[a-z]\.){2,}")
_THOUSANDS: Final = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_TOKEN: Final = re.compile(
    r"(?<![\w.])[+-]?\d+(?:\.\d+)*\w*|[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+|[$€£¥₹%]|[📈📉🚀💀🔴🟢⬆⬇▲▼↑↓]"
)
_SAME: Final = {"percent": "%", "pct": "%"}


class Canonical(NamedTuple):
    """Tokens of the story, and whether its end is missing (its last token, maybe half a word, is then left out)."""

    tokens: list[str]
    truncated: bool


def canonical(text: str) -> Canonical:
    """The story in `text`."""
    if "://" in text or "www." in text:
        text = LINK.sub(" ", text).rstrip()
    text = _behead(text)
    text = _untail(text)
    truncated = text[-1:] in ".…]" and _CUT.search(text[-8:]) is not None
    text = _sans_repeated_cashtags(text)
    folded = text.casefold().replace("'", "").replace("’", "").replace("−", "-")
    if "." in folded:
        folded = _ACRONYM.sub(lambda match: match[0].replace(".", ""), folded)
    if "," in folded:
        folded = _THOUSANDS.sub("", folded)
    tokens = [_SAME.get(token, token) for token in _TOKEN.findall(folded) if token not in ARTICLES]
    return Canonical(tokens[:-1] if truncated else tokens, truncated)


def _behead(text: str) -> str:
    for _ in range(4):
        match = _HEAD.match(text)
        if match is None:
            break
        text = text[match.end() :]
    if text[:2].lstrip()[:1] == "@" and text.count(" ") > MIN_AFTER_MENTION:
        match = _MENTION.match(text)
        return text[match.end() :] if match else text
    return text


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
