"""Text → token ids, at most as many as the encoder takes, with a note of what was cut off.

A long text is cut, or read in windows that overlap.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from tokenizers import Encoding
from tokenizers import Tokenizer as FastTokenizer

from services.score.base import CONFIG, TOKENIZER, LongTexts
from services.stream.errors import Rejected

MAX_TOKENS: Final = 256
"""Of one text or window, the special ones included: the length that the bundled encoder's own configuration takes."""
CHARS_PER_TOKEN: Final = 40
"""Beyond MAX_TOKENS times this a text is cut before it is tokenised, which bounds the time spent on what is dropped
anyway."""
BLANKS: Final = ("[MASK]", "<mask>", "[PAD]", "<pad>")
"""Tokens that stand for a word without saying which, best first: an encoder was trained to read past a mask, while a
row of padding is nothing that it knows. On eight anchors the largest attribution was on the word whose removal changes
most five times by masks, three times by padding."""
WINDOWS: Final = 16
"""Of one text at most."""
OVERLAP: Final = 32
"""Tokens that a window shares with the one before, so that few sentences are in no window whole."""
UNSPACED: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""A letter of a script without spaces between words: Thai, Lao, Burmese, Khmer, kana, Han."""
PLACES_AFTER_PAD: Final = frozenset(
    {"camembert", "data2vec-text", "esm", "ibert", "lilt", "longformer", "luke", "mpnet", "roberta"}
    | {"roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"}
)
"""Model types that number their positions from behind the padding token's id on, and so have fewer than they name."""


class Tokens(NamedTuple):
    """One text's ids."""

    ids: list[int]
    truncated: bool
    more: tuple[list[int], ...] = ()
    """Windows after the first."""


class Word(NamedTuple):
    """What the tokenizer takes for one word, number or mark of a text."""

    start: int
    end: int
    """`text[start:end]`, in characters."""
    pieces: list[int]
    """Where its tokens stand among the text's."""


class Tokenizer:
    """The fast tokenizer of a Hugging Face folder; whatever truncation or padding its file asks for is overruled."""

    def __init__(self, folder: Path, long_texts: LongTexts = "truncate") -> None:
        self._fast = FastTokenizer.from_file(str(folder / TOKENIZER))
        self.most = most_tokens(folder)
        self._windows = WINDOWS if long_texts == "windows" else 1
        self._fast.no_padding()
        # At least one token of a window must be new, or reading would never come to an end.
        room = self.most - self._fast.num_special_tokens_to_add(is_pair=False) - 1
        self._fast.enable_truncation(self.most, stride=min(OVERLAP, room) if self._windows > 1 else 0)

    def __call__(self, texts: Sequence[str]) -> list[Tokens | Rejected]:
        """As many answers as texts, in order; `Rejected` for a text that can't be tokenised."""
        heads = [self._head(text) for text in texts]
        try:
            encodings: list[Encoding | Rejected] = list(self._fast.encode_batch_fast(heads))
        except Exception:  # one text breaks the whole call: find it
            encodings = [self._one(head) for head in heads]
        return [
            found if isinstance(found, Rejected) else self._tokens(found, cut=head != text)
            for found, head, text in zip(encodings, heads, texts, strict=True)
        ]

    def words(self, text: str) -> tuple[list[int], list[Word]]:
        """The ids of a text, the same as when it is scored, and its words; special tokens belong to none.

        Where words aren't written apart, each token is one: some tokenizers take a Chinese sentence for a word.

        Raises:
            Rejected: it can't be tokenised.
        """
        found = self._one(self._head(text))
        if isinstance(found, Rejected):
            raise found
        words: list[Word] = []
        last = None
        for place, (number, (start, end)) in enumerate(zip(found.word_ids, found.offsets, strict=True)):
            if number is None:
                continue
            if number == last and not _apart(text, words[-1], start):
                words[-1] = Word(words[-1].start, end, [*words[-1].pieces, place])
            else:
                words.append(Word(start, end, [place]))
            last = number
        return found.ids, [_stripped(text, word) for word in words]

    def without(self, ids: Sequence[int], words: Sequence[Word]) -> list[int]:
        """The ids with a blank in the place of each that belongs to a word.

        Raises:
            Rejected: the tokenizer has no token for that.
        """
        known = (found for name in BLANKS if (found := self._fast.token_to_id(name)) is not None)
        blank = next(known, None)
        if blank is None:
            raise Rejected("tokenizer", f"it has none of {', '.join(BLANKS)}")
        inside = {place for word in words for place in word.pieces}
        return [blank if place in inside else token for place, token in enumerate(ids)]

    def _head(self, text: str) -> str:
        return text[: self._windows * self.most * CHARS_PER_TOKEN]

    def _one(self, text: str) -> Encoding | Rejected:
        try:
            return self._fast.encode(text)
        except Exception as error:
            return Rejected("tokenizer", f"{type(error).__name__}: {error}")

    def _tokens(self, found: Encoding, cut: bool) -> Tokens | Rejected:
        if not found.ids:
            return Rejected("tokenizer", "it has no tokens")
        further = found.overflowing
        read = self._windows - 1
        return Tokens(found.ids, len(further) > read or cut, tuple(window.ids for window in further[:read]))


def _apart(text: str, word: Word, start: int) -> bool:
    """Whether the token at `start` begins a word of its own, though the tokenizer counts it to the one before."""
    if start < word.end or not text[word.start : word.end].strip():
        return False
    return UNSPACED.search(text, word.end - 1, start + 1) is not None


def _stripped(text: str, word: Word) -> Word:
    """Without the space before it, which some tokenizers count to a word."""
    inside = text[word.start : word.end]
    left = len(inside) - len(inside.lstrip()) if inside.strip() else 0
    return word._replace(start=word.start + left)


class _Positions(msgspec.Struct, frozen=True):
    """What of `config.json` bounds a text's length."""

    model_type: str = ""
    max_position_embeddings: int | None = None
    n_positions: int | None = None
    pad_token_id: int | None = None


def most_tokens(folder: Path) -> int:
    """How many tokens of a text, the special ones included, the encoder in `folder` is given."""
    config = msgspec.json.decode((folder / CONFIG).read_bytes(), type=_Positions)
    places = config.max_position_embeddings or config.n_positions or MAX_TOKENS
    if config.model_type in PLACES_AFTER_PAD:
        places -= 1 + (1 if config.pad_token_id is None else config.pad_token_id)
    return min(MAX_TOKENS, places) if places > 0 else MAX_TOKENS  # some without a bound say −1
