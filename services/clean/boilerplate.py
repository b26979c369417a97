"""Whitespace, and the sentences no story is made of: cookie banners, newsletter and paywall prompts, menus.

Credits of agencies stay: they are dropped for fingerprints only (`canonical`).
"""

from __future__ import annotations

import re
from typing import Final

LONGEST_SENTENCE: Final = 300
"""Prompts are short; longer sentences are never one."""

_STEMS: Final = (
    "cookie", "subscri", "newsletter", "sign up", "signing up", "read more", "continue", "advertisement",
    "rights reserved", "javascript", "browser", "policy", "terms of", "log in", "share on", "also like", "free trial",
    "free article", "sign in", "inbox", "got it", "accept all", "preferences", "opt out", "ray id",
)  # fmt: skip
"""A text with none of these has nothing to drop."""

_OURS: Final = (
    r"(?:newsletters?|channel|podcast|e-?mails?|mailing\slist|alerts?|updates|briefings?|digest|stor(?:y|ies)|articles?"
    r"|(?:web)?site|premium|access|trial|inbox)\b"
)
"""What a site asks its visitors to take."""

# Each alternative must describe a whole sentence or line, and one that begins as news may, more than one word of a
# prompt: `Netflix gains subscribers`, `Google keeps cookies` and `Subscribe to the IPO of Zomato` match none.
_NOISE: Final = re.compile(
    rf"""(?:
      (?:please\s)?(?:subscribe|sign\sup)(?:\s(?:now|here|today))?
    | (?:please\s)?(?:subscribe|sign\sup)\s(?:(?:now|here|today)\s)?(?:for|to)\s
        (?:(?:our|receive|continue|read)\b|.{{0,60}}?\b{_OURS}).{{0,160}}
    | sign\sin(?:\s(?:now|here|today))?
    | log\sin | already\sa\s(?:subscriber|member).{{0,60}}
    | (?:start|begin)\syour\sfree\strial.{{0,80}} | you\shave\s\d+\s(?:free\s)?articles?\s(?:left|remaining).{{0,60}}
    | this\s(?:article|story|content)\sis\s(?:for|available\sto)\s(?:our\s)?subscribers.{{0,60}}
    | get\s.{{0,60}}\sin(?:to)?\syour\sinbox.{{0,40}}
    | (?:this|our|the)\s(?:web)?site\suses\scookies.{{0,120}}
    | we\s(?:and\sour\s.{{0,40}}partners\s)?(?:use|store)\s(?:[\w-]+,?\s){{0,3}}cookies.{{0,120}}
    | we\s(?:and\sour\s.{{0,40}}partners\s)?(?:use|store)\b.{{0,80}}\b(?:your|a)\s(?:device|browser)
        .{{0,60}}cookies.{{0,120}}
    | by\s(?:continuing|clicking|using|signing\sup|browsing)\b.{{0,80}}\byou\s(?:agree|accept|consent|acknowledge)
        .{{0,200}}
    | you\scan\s(?:accept|manage|unsubscribe|opt\sout)
        (?:.{{0,60}}\b(?:cookies|choices|preferences|settings|consent|any\stime)\b.{{0,80}})?
    | you(?:'re|\sare)\sreceiving\sthis\b.{{0,120}}
    | if\syou\sno\slonger\s(?:wish|want)\sto\sreceive\b.{{0,160}} | (?:click\shere\sto\s)?unsubscribe(?:\shere)?
    | we(?:'ve|\shave)\supdated\sour\s(?:privacy|cookie|terms\sof\s(?:use|service)).{{0,80}}
    | (?:(?:accept|reject|manage|allow)\s?(?:all|cookies|preferences|choices|settings)?(?:\scookies)?[\s|]*){{1,4}}
    | got\sit
    | (?:read|see)\smore\b(?:\s?[:>»].{{0,120}})? | continue\sreading\b.{{0,40}}
    | you\s(?:may|might)\salso\slike.{{0,20}}
    | advertisement(?:\s?[-–—:]\s?scroll\sto\scontinue)?
    | share\s(?:this\s)?on\s(?:facebook|twitter|x|linkedin|whatsapp)\b.{{0,80}}
    | (?:©|\(c\)|copyright\s(?:©|\(c\)|by\b|\d{{4}})).{{0,80}} | all\srights\sreserved
    | please\senable\s(?:javascript|cookies).{{0,80}} | checking\syour\sbrowser.{{0,80}} | this\sprocess\sis\sautomatic
    | ray\sid:.{{0,40}}
    )[\s.!…>»]*""",
    re.IGNORECASE | re.VERBOSE,
)
_SENTENCE: Final = re.compile(r"(?<=[.!?])\s+")
_MENU: Final = frozenset(
    (
        "about us", "about", "contact", "contact us", "home", "markets", "terms", "terms of use", "terms of service",
        "privacy", "privacy policy", "careers", "log in", "login", "sign in", "subscribe", "newsletter", "share",
        "tweet", "email", "e-mail", "print", "facebook", "twitter", "linkedin", "help", "cookies", "sitemap",
    )
)  # fmt: skip


def tidy(text: str) -> str:
    """Single spaces, no blank lines, no space at the ends."""
    if "\n" not in text:
        return " ".join(text.split())
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def cut(text: str) -> str:
    """`text`, tidy, without its boilerplate sentences; '' when it was nothing else."""
    lowered = text.lower()
    if not any(map(lowered.__contains__, _STEMS)):
        return text
    lines = (_kept(line) for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def _kept(line: str) -> str:
    if "|" in line and all(item.strip().lower() in _MENU for item in line.split("|")):
        return ""
    sentences = _SENTENCE.split(line)
    kept = [sentence for sentence in sentences if not _is_noise(sentence)]
    return line if len(kept) == len(sentences) else " ".join(kept)


def _is_noise(sentence: str) -> bool:
    return len(sentence) <= LONGEST_SENTENCE and _NOISE.fullmatch(sentence) is not None
