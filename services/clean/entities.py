"""Tickers a text is about: cashtags, exchange prefixes, and company names from a table a user can replace.

The table (`companies.csv`; a user's own is named by `TICKERLOOP_COMPANIES`) is CSV in UTF-8 with the columns `ticker`
and `names`, the names divided by `|`. A name written in lower case matches in any case; one with capitals needs them
(or a text in capitals). `?` behind a name marks a common word, which counts only where its surroundings speak of a
company: `Target raises outlook` does, `Target price raised` doesn't. Tickers outside the United States carry the
exchange's usual suffix: `VOD.L`, `0700.HK`, `RELIANCE.NS`.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final, NamedTuple

from services.clean.words import word_set
from services.stream.errors import Misconfigured

MAX_TICKERS: Final = 32
"""Each becomes an event (`mentions`); a list of more is a directory, not a story."""

SUFFIXES: Final = {
    "NASDAQ": "", "NYSE": "", "AMEX": "", "NYSEARCA": "", "OTC": "", "OTCQB": "", "OTCQX": "", "OTCMKTS": "",
    "LSE": ".L", "LON": ".L", "AIM": ".L", "HKEX": ".HK", "HKG": ".HK", "SEHK": ".HK", "HKSE": ".HK",
    "NSE": ".NS", "BSE": ".BO", "TSX": ".TO", "TSXV": ".V", "ASX": ".AX", "OSE": ".OL", "EPA": ".PA",
    "ETR": ".DE", "XETRA": ".DE", "FRA": ".F", "AMS": ".AS", "SWX": ".SW", "BIT": ".MI", "BME": ".MC", "STO": ".ST",
    "CPH": ".CO", "HEL": ".HE", "SGX": ".SI", "KRX": ".KS", "TYO": ".T", "TSE": ".T", "SSE": ".SS", "SHA": ".SS",
    "SZSE": ".SZ", "SHE": ".SZ", "TPE": ".TW", "TWSE": ".TW", "JSE": ".JO",
}  # fmt: skip
_NUMERIC: Final = frozenset((".HK", ".KS", ".T", ".SS", ".SZ", ".TW", ".BO"))
"""Exchanges whose symbols are numbers; elsewhere `NSE: 200 stocks` is prose."""

_CASHTAG: Final = re.compile(r"(?<![\w$])\$([A-Za-z]{1,6}(?:\.[A-Za-z]{1,2})?)(?![\w$])")
_PREFIXED: Final = re.compile(r"\b([A-Z]{3,8})\s?:\s?\$?([A-Z0-9][A-Z0-9.&-]{0,11})(?![a-z])\b(\s?[),;]?)")
_WORD: Final = re.compile(r"[^\W_][\w&.']*!?")

_AFTER_COMPANY: Final = word_set(
    "inc corp co ltd plc shares stock ceo cfo chief earnings results revenue sales profit reports posts beats"
    " misses says said to is was has will tops raises cuts hikes slashes lifts falls rises jumps drops slips gains"
    " surges plunges announces launches plans expects sees names hires buys sells wins loses unveils files reported"
    " posted warned warns upgraded downgraded and may q1 q2 q3 q4"
)
_NOT_AFTER: Final = word_set(
    "price prices pie pies juice tree application applications rule rules ban fee fees free date dates rainforest"
    " river medal medals standard loan loans lining screen spoon year years bullet"
)


class _Name(NamedTuple):
    words: tuple[str, ...]  # lower case
    written: tuple[str, ...]
    ticker: str
    common: bool
    any_case: bool


class Table(NamedTuple):
    """The company table, ready to search."""

    by_first_word: dict[str, tuple[_Name, ...]]
    """Names by first word in lower case, longest first."""
    by_han_name: dict[str, str]
    tickers: frozenset[str]
    by_base: dict[str, str]
    """`RELIANCE` → `RELIANCE.NS`, where that is the only one."""


def tickers(text: str, table: Table) -> tuple[str, ...]:
    """Tickers in order of appearance within each kind: cashtags, exchange prefixes, names; at most `MAX_TICKERS`."""
    found: dict[str, None] = {}
    if "$" in text:
        for match in _CASHTAG.finditer(text):
            symbol = match[1].upper()
            if match[1].isupper() or symbol in table.tickers or symbol in table.by_base:
                found[table.by_base.get(symbol, symbol)] = None
    if ":" in text:
        found.update(dict.fromkeys(_prefixed(text, table)))
    found.update(dict.fromkeys(_named(text, table)))
    if not text.isascii():
        found.update((ticker, None) for name, ticker in table.by_han_name.items() if name in text)
    return tuple(found)[:MAX_TICKERS]


def _prefixed(text: str, table: Table) -> Iterator[str]:
    for exchange, symbol, after in _PREFIXED.findall(text):
        suffix = SUFFIXES.get(exchange)
        symbol = symbol.rstrip(".-&")
        if suffix is None or (len(symbol) == 1 and not after.strip()):
            continue
        if symbol.isdigit():
            if suffix not in _NUMERIC:
                continue
            symbol = symbol.zfill(4) if suffix == ".HK" else symbol
        elif suffix == ".BO" and f"{symbol}.NS" in table.tickers:
            suffix = ".NS"
        yield symbol + suffix


def _named(text: str, table: Table) -> Iterator[str]:
    words = _WORD.findall(text)
    if "." in text or "'" in text or "!" in text:
        words = [word.rstrip(".'!") for word in words]
    lowered = [word.lower() for word in words]
    bare = [word.removesuffix("'s") for word in lowered] if "'s" in text else lowered
    first_words = table.by_first_word
    done = 0
    for index, word in enumerate(bare):
        if index < done or (word not in first_words and lowered[index] not in first_words):
            continue
        name = _at(index, words, lowered, bare, table)
        if name is not None:
            done = index + len(name.words)
            yield name.ticker


def _at(index: int, words: list[str], lowered: list[str], bare: list[str], table: Table) -> _Name | None:
    """The longest name that starts at `index`, with or without a possessive at its end."""
    for first in dict.fromkeys((lowered[index], bare[index])):
        for name in table.by_first_word.get(first, ()):
            end = index + len(name.words)
            rest = name.words[1:]
            if rest and rest not in (
                tuple(lowered[index + 1 : end]),
                (*lowered[index + 1 : end - 1], *bare[end - 1 : end]),
            ):
                continue
            if not name.any_case and not all(map(_same_case, name.written, words[index:end])):
                continue
            if not name.common or _means_it(name, index, end, words, lowered, table):
                return name
    return None


def _same_case(written: str, word: str) -> bool:
    """`SAIL` needs its capitals; `SpiceJet` may come as `Spicejet` or `SPICEJET`."""
    return (word[0].isupper() or written[0].islower()) and (not written.isupper() or word.startswith(written))


def _means_it(name: _Name, index: int, end: int, words: list[str], lowered: list[str], table: Table) -> bool:
    """Whether a common word stands for the company or commodity here."""
    following = lowered[end] if end < len(lowered) else ""
    if following in _NOT_AFTER:
        return False
    within_capitals = index > 0 and words[index - 1][0].isupper()
    if name.any_case:  # a commodity; `Reunion Gold reports` is a company's name
        return words[index].islower() or not within_capitals or lowered[index - 1] in table.by_first_word
    if following in _AFTER_COMPANY or lowered[end - 1].endswith("'s"):
        return True
    # A capital within a sentence of small words is a name; at the start, or among capitals, it proves nothing.
    return index > 0 and words[index - 1].islower() and (not following or words[end].islower())


@cache
def load(path: str | None = None) -> Table:
    """Read a company table; None is the one that comes with the project.

    Raises:
        Misconfigured: the file can't be read, or a row has no ticker or no name.
    """
    file = Path(path) if path else files("services.clean").joinpath("companies.csv")
    try:
        with file.open(encoding="utf-8") as lines:
            rows = [(row["ticker"], row["names"].split("|")) for row in csv.DictReader(lines)]
    except (OSError, UnicodeDecodeError, KeyError, AttributeError) as error:
        raise Misconfigured(f"{file} is no company table with the columns `ticker` and `names`: {error!r}") from error
    for ticker, names in rows:
        if not ticker or not all(_WORD.search(name) for name in names):
            raise Misconfigured(f"{file}: a row lacks a ticker or a name: {ticker!r}, {names}")
    index: dict[str, list[_Name]] = {}
    han: dict[str, str] = {}
    for ticker, names in rows:
        for written in names:
            common, name = written.endswith("?"), written.rstrip("?")
            if not name.isascii() and ord(name[0]) > 0x2E80:
                han[name] = ticker
                continue
            parts = tuple(word.rstrip(".'!") for word in _WORD.findall(name))
            words = tuple(word.lower() for word in parts)
            index.setdefault(words[0], []).append(_Name(words, parts, ticker, common, name == name.lower()))
    symbols = [ticker for ticker, _ in rows]
    bases = Counter(ticker.rpartition(".")[0] for ticker in symbols)
    return Table(
        {first: tuple(sorted(names, key=lambda name: -len(name.words))) for first, names in index.items()},
        han,
        frozenset(symbols),
        # Short bases are other companies' symbols in New York: AIR, SAN, OIL.
        {base: ticker for ticker in symbols if len(base := ticker.rpartition(".")[0]) >= 5 and bases[base] == 1},
    )
