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


class Tokens(NamedTuple):
    """One text's ids."""

    ids: list[int]
    truncated: bool


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

    def _one(self, text: str) -> Encoding | Rejected:
        try:
            return self._fast.encode(text)
        except Exception as error:
            return Rejected("tokenizer", f"{type(error).__name__}: {error}")


def _tokens(found: Encoding, cut: bool) -> Tokens | Rejected:
    if not found.ids:
        return Rejected("tokenizer", "it has no tokens")
    return Tokens(found.ids, bool(found.overflowing) or cut)
