"""Keys by which copies of one story are found. Precision before recall: a dropped piece of news can't be had back.

Two texts are copies when
- their canonical tokens are equal (`exact`), or
- one is cut off (`…`) and all it says is how the other begins (`covers`), or
- both are long, differ in a few words out of dozens, and not in a number, a name, a ticker or a word that turns a
  story round (`bands`, `signature`: MinHash, Broder 1997).

So a text with another number, company, quarter or verb never is a copy of a short one, whatever the words are.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, NamedTuple
from zlib import crc32

import numpy as np
import xxhash

from services.clean.canonical import canonical, names
from services.clean.words import TURNS

ANCHOR_TOKENS: Final = 8
"""A text's first tokens, which a cut-off copy shares; shorter texts are looked for whole only."""
MAX_PREFIX_TOKENS: Final = 128

NEAR_TOKENS: Final = 40
"""Shorter texts aren't judged by nearness. At `near.SIMILAR` words may be added at the ends of a text this long; one in
its middle may change from about 120 tokens on."""
MAX_NEAR_TOKENS: Final = 2_000

HASHES: Final = 64
ROWS: Final = 8
BANDS: Final = 5
"""At a similarity of 0.95 (`near.SIMILAR`) a pair shares a band with probability 1 − (1 − 0.95⁸)⁵ = 0.996."""

_TITLE_BELOW: Final = 12
"""Tokens of a body under which its title belongs to the story: feeds send `Read the full report` under every title.
From here on it does where the body doesn't speak of it."""

_CAPITALISED: Final = re.compile(r"\b[A-Z]\w+")
_SEEDS: Final = np.random.Generator(np.random.PCG64(20_250_101))
_MULTIPLY: Final = _SEEDS.integers(1, 2**63, HASHES, dtype=np.uint64) | np.uint64(1)
_ADD: Final = _SEEDS.integers(0, 2**63, HASHES, dtype=np.uint64)
_SHINGLE: Final = np.array((0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9), dtype=np.uint64)


class Fingerprint(NamedTuple):
    """Everything the claims compare; hashes only, so that no text can be read from them."""

    exact: bytes
    anchor: int
    """Signed 64 bits, as PostgreSQL's bigint."""
    length: int
    truncated: bool
    prefixes: bytes
    """CRC-32 of the first 8, 9, 10 … tokens, up to 128."""
    bands: tuple[int, ...] = ()
    signature: bytes = b""
    """64 × 2 bytes; empty where nearness isn't judged."""

    def covers(self, cut: Fingerprint) -> bool:
        """Whether `cut`, a truncated text, is how this one begins, and most of it."""
        if not cut.truncated or not ANCHOR_TOKENS <= cut.length <= min(self.length, MAX_PREFIX_TOKENS):
            return False
        at = 4 * (cut.length - ANCHOR_TOKENS)
        return self.length <= 2 * cut.length and self.prefixes[at : at + 4] == cut.prefixes[at : at + 4]


def fingerprint(body: str, title: str | None, tickers: Sequence[str]) -> Fingerprint:
    """Keys of a cleaned body; its title counts as far as it says what the body doesn't."""
    story = canonical(body)
    before, after = _beyond(title, story.tokens) if title else ([], [])
    tokens = before + story.tokens
    anchor = _bytes(tokens[:ANCHOR_TOKENS])
    known = len(before) + story.whole
    near = len(tokens) >= NEAR_TOKENS and not story.truncated
    bands, signature = _near(tokens, body, (*before, *after, *tickers)) if near else ((), b"")
    return Fingerprint(
        exact=blake2b(_bytes(tokens + after), digest_size=16).digest(),
        anchor=xxhash.xxh3_64_intdigest(anchor) - 2**63,
        length=known,
        truncated=story.truncated and story.whole >= ANCHOR_TOKENS,
        prefixes=_prefixes(tokens[:known], anchor),
        bands=bands,
        signature=signature,
    )


def _beyond(title: str, body: list[str]) -> tuple[list[str], list[str]]:
    """What of a title belongs before the body's tokens and what behind: all of it, or only facts that the body lacks.

    It is of another matter than the body where none of its names is there, or, without names, most of its words aren't.
    """
    tokens, named, said = canonical(title).tokens, names(title), frozenset(body)
    ours = not said.isdisjoint(named) if named else 2 * len(said.intersection(tokens)) >= len(tokens)
    if len(body) < _TITLE_BELOW or not ours:
        return [*tokens, "/"], []
    facts = [token for token in tokens if token not in said and (token in named or not token.isalpha())]
    return [], ["/", *facts] if facts else []


def _bytes(tokens: list[str]) -> bytes:
    return " ".join(tokens).encode("utf-8", "replace")


def _prefixes(tokens: list[str], anchor: bytes) -> bytes:
    if len(tokens) < ANCHOR_TOKENS:
        return b""
    sums = [crc32(anchor)]
    for token in tokens[ANCHOR_TOKENS:MAX_PREFIX_TOKENS]:
        # Times 31, since bare chaining would take `ab` `c` for `a` `bc`.
        sums.append(crc32(token.encode("utf-8", "replace"), sums[-1] * 31 & 0xFFFF_FFFF))
    return struct.pack(f"<{len(sums)}I", *sums)


def _near(tokens: list[str], body: str, beside: Sequence[str]) -> tuple[tuple[int, ...], bytes]:
    """Bands, each bound to the guard: what must be equal in copies, whatever else was edited; `beside`, too."""
    names = {name.lower() for name in _CAPITALISED.findall(body)}
    if not names or (not body.isascii() and sum(map(str.isascii, body)) < 0.9 * len(body)):
        return (), b""  # without capitals a name can't be told from a word
    facts = {token for token in tokens if token in TURNS or not token.isalpha()}
    guard = "\0".join((*sorted(facts), "", *sorted(names), "", *sorted(beside))).encode("utf-8", "replace")
    signature = _minhash(tokens[:MAX_NEAR_TOKENS])
    seed = xxhash.xxh3_64_intdigest(guard)
    bands = (signature[2 * ROWS * band : 2 * ROWS * (band + 1)] + bytes((band,)) for band in range(BANDS))
    return tuple(xxhash.xxh3_64_intdigest(band, seed) for band in bands), signature


def _minhash(tokens: list[str]) -> bytes:
    """Minima of 64 multiply-add hashes over shingles of three tokens, 16 bits each."""
    ids = np.array([crc32(token.encode("utf-8", "replace")) for token in tokens], dtype=np.uint64)
    shingles = ids[:-2] * _SHINGLE[0] + ids[1:-1] * _SHINGLE[1] + ids[2:] * _SHINGLE[2]
    hashed = (shingles[:, None] ^ (shingles[:, None] >> np.uint64(29))) * _MULTIPLY + _ADD
    lowest = (hashed >> np.uint64(32)).min(axis=0)
    return bytes((lowest & np.uint64(0xFFFF)).astype("<u2").tobytes())
