"""Which language a text is in: by script where that settles it, by function words for most Latin text, by a detector
else.

A headline is short and full of names, and detectors take names for Italian or Finnish; so a Latin text is English
unless there is evidence against it: function words of another language, and a detector that agrees.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-untyped]

from services.clean.words import word_set

CANDIDATES: Final = (
    "en", "de", "fr", "es", "it", "pt", "nl", "sv", "da", "no", "pl", "tr", "id", "vi", "fi", "cs", "ro", "hu",
)  # fmt: skip
"""Latin-script languages of financial news; the detector errs more the more it may choose from."""

SURE: Final = 0.9
"""Probability from which the detector's word counts, given foreign function words."""

ALONE: Final = 0.995
"""And without them."""

_ENGLISH: Final = word_set(
    "the of to and for with by after from its as at on is are was were be been has have had will would could should"
    " that this than over amid ahead says said not it he they we you i'm it's but more up down new into per out"
    " about off if how what why who when where their our all may can shares stock stocks market markets profit loss"
    " sales earnings revenue quarter price prices growth dividend target buy sell rises falls gains higher lower"
    " beats misses year net bank trade rating outlook forecast report reports cut cuts raises update results today"
    " week month"
)
_FOREIGN: Final = word_set(
    "der die das und für von mit dem den ein eine einen ist wird nicht auf bei nach aus zur zum im wegen über sich"
    " hat haben le les des du et une dans sur avec pour est sont après par ses leur qui que au aux cette plus el los"
    " las y del una por con su sus más para como tras este está millones il lo gli che di della delle dei nel nella"
    " sono più alla dopo ha anni os uma não em do da dos das ao às pela pelo após com mais ações het een voor van"
    " niet zijn werd naar bij ook och att som för det av är på till inte har med efter af til ikke er og nie jest"
    " się na że oraz w z przez ve bir bu için ile olarak dan yang untuk dengan pada ini"
)

_TOKENS: Final = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_SCRIPTS: Final = {
    "zh": re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]"),
    "ja": re.compile(r"[\u3041-\u30ff]"),
    "ko": re.compile(r"[\uac00-\ud7a3]"),
    "ru": re.compile(r"[\u0400-\u04ff]"),
    "ar": re.compile(r"[\u0600-\u06ff]"),
    "hi": re.compile(r"[\u0900-\u097f]"),
    "he": re.compile(r"[\u0590-\u05ff]"),
    "el": re.compile(r"[\u0370-\u03ff]"),
    "th": re.compile(r"[\u0e00-\u0e7f]"),
}
_LATIN: Final = re.compile(r"[A-Za-z\u00c0-\u024f\u1e00-\u1eff]")
_BEYOND_LATIN: Final = re.compile(r"[\u0370-\u1dff\u2e80-\ud7ff]")

CODES: Final = frozenset((*CANDIDATES, *_SCRIPTS))
"""What a text can be found to be by itself."""

SAMPLE: Final = 2_000
"""Characters looked at; a text doesn't change its language later."""


def detect(text: str, claimed: str | None = None) -> str:
    """ISO 639-1 code; `claimed`, the source's word, decides only where the text itself doesn't."""
    text = text[:SAMPLE]
    if not text.isascii() and _BEYOND_LATIN.search(text):
        code = _by_script(text)
        if code:
            return code
    lowered = text.lower()
    rough = set(lowered.split())
    if len(rough & _ENGLISH) > len(rough & _FOREIGN):
        return "en"  # most texts: the tokens below would say the same, at three times the price
    tokens = _TOKENS.findall(lowered)
    unique = set(tokens)
    english, foreign = len(unique & _ENGLISH), len(unique & _FOREIGN)
    if english > foreign or len(tokens) < 4:
        return "en"
    code, probability = load().classify(text)
    if code != "en" and probability >= (SURE if foreign > english else ALONE):
        return str(code)
    return _primary(claimed) or "en"


def _by_script(text: str) -> str:
    """The script most letters are in, '' for Latin. A Han character says as much as three Latin letters."""
    counts = {code: len(pattern.findall(text)) for code, pattern in _SCRIPTS.items()}
    if counts["ja"] * 10 > counts["zh"]:
        counts["ja"] += counts.pop("zh")
    counts["zh"] = counts.get("zh", 0) * 3
    code = max(counts, key=counts.__getitem__)
    return code if counts[code] * (1 if code in ("zh", "ja") else 2) > len(_LATIN.findall(text)) else ""


def _primary(claimed: str | None) -> str:
    """`en` of `en-GB`."""
    return claimed.split("-")[0].split("_")[0].strip().lower() if claimed else ""


@cache
def load() -> LanguageIdentifier:
    """The detector, read once per process; half a second."""
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(CANDIDATES)
    return identifier
