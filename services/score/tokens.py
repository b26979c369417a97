"""Text → token ids, at most `MAX_TOKENS` of them, with a note of what was cut off."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tokenizers import Encoding
from tokenizers import Tokenizer as FastTokenizer

from services.stream.errors import Rejected

MAX_TOKENS: Final = 256
"""Of one text, the two special ones included: the length that the bundled encoder's own configuration takes."""
CHARS_PER_TOKEN: Final = 40
"""Beyond MAX_TOKENS times this a text is cut before it is tokenised, which bounds the time spent on what is dropped
anyway."""
BLANKS: Final = ("[MASK]", "<mask>", "[PAD]", "<pad>")
"""Tokens that stand for a word without saying which, best first: an encoder was trained to read past a mask, while a
row of padding is nothing that it knows. On eight anchors the largest attribution was on the word whose removal changes
most five times by masks, three times by padding."""


class Tokens(NamedTuple):
    """One text's ids."""

    ids: list[int]
    truncated: bool


class Word(NamedTuple):
    """What the tokenizer takes for one word, number or mark of a text."""

    start: int
    end: int
    """`text[start:end]`, in characters."""
    pieces: list[int]
    """Where its tokens stand among the text's."""


class Tokenizer:
    """A fast tokenizer from its `tokenizer.json`; whatever truncation or padding that file asks for is overruled."""

    def __init__(self, file: Path) -> None:
        self._fast = FastTokenizer.from_file(str(file))
        self._fast.no_padding()
        self._fast.enable_truncation(MAX_TOKENS)

    def __call__(self, texts: Sequence[str]) -> list[Tokens | Rejected]:
        """As many answers as texts, in order; `Rejected` for a text that can't be tokenised."""
        heads = [text[: MAX_TOKENS * CHARS_PER_TOKEN] for text in texts]
        try:
            encodings: list[Encoding | Rejected] = list(self._fast.encode_batch_fast(heads))
        except Exception:  # one text breaks the whole call: find it
            encodings = [self._one(head) for head in heads]
        return [
            found if isinstance(found, Rejected) else _tokens(found, cut=head != text)
            for found, head, text in zip(encodings, heads, texts, strict=True)
        ]

    def words(self, text: str) -> tuple[list[int], list[Word]]:
        """The ids of a text, the same as when it is scored, and its words; special tokens belong to none.

        Raises:
            Rejected: it can't be tokenised.
        """
        found = self._one(text[: MAX_TOKENS * CHARS_PER_TOKEN])
        if isinstance(found, Rejected):
            raise found
        pieces: dict[int, list[int]] = {}
        for place, word in enumerate(found.word_ids):
            if word is not None:
                pieces.setdefault(word, []).append(place)
        ends = ((found.offsets[places[0]][0], found.offsets[places[-1]][1], places) for places in pieces.values())
        return found.ids, [Word(*word) for word in ends]

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

    def _one(self, text: str) -> Encoding | Rejected:
        try:
            return self._fast.encode(text)
        except Exception as error:
            return Rejected("tokenizer", f"{type(error).__name__}: {error}")


def _tokens(found: Encoding, cut: bool) -> Tokens | Rejected:
    if not found.ids:
        return Rejected("tokenizer", "it has no tokens")
    return Tokens(found.ids, bool(found.overflowing) or cut)
