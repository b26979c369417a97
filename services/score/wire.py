"""What is asked of a score worker and answered over HTTP: by the worker, and handed on by the gateway as it is."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from services.stream.events import Label

MAX_TEXTS: Final = 256
MAX_CHARS: Final = 20_000

_Text = Annotated[str, Meta(max_length=MAX_CHARS)]


class ScoreRequest(msgspec.Struct, frozen=True):
    """Texts to score now; nothing of them is kept."""

    texts: Annotated[list[_Text], Meta(min_length=1, max_length=MAX_TEXTS)]


class ExplainRequest(msgspec.Struct, frozen=True):
    """A text to explain now, and the label to explain; without one it is the label that the text gets."""

    text: _Text
    label: Label | None = None


class FeaturesRequest(msgspec.Struct, frozen=True):
    """Texts whose features are wanted; nothing of them is kept."""

    texts: Annotated[list[_Text], Meta(min_length=1, max_length=MAX_TEXTS)]


class Features(msgspec.Struct, frozen=True):
    """What the model in service sees in each text, in the order of the texts that were sent: rows of `width` float32,
    little-endian, one after the other, as base64 in JSON. `key` is equal for equal features, whatever the model."""

    model: str
    epoch: int
    key: str
    width: int
    rows: bytes


class Score(msgspec.Struct, frozen=True):
    """One text's score; `probabilities` are negative, neutral, positive. `abstained` when the greatest of them is below
    the model's threshold; the label is the likeliest all the same."""

    label: str
    probabilities: tuple[float, float, float]
    truncated: bool
    abstained: bool = False


class Scores(msgspec.Struct, frozen=True):
    """In the order of the texts that were sent; all by one model."""

    model: str
    epoch: int
    scores: list[Score]


class Token(msgspec.Struct, frozen=True):
    """A word, number or mark of a text, as the model's tokenizer divides it.

    `text` is the sent text from `start` to `end`, in characters (Unicode code points). `attribution` is what it adds
    to the log-odds of the explained label.
    """

    text: str
    start: int
    end: int
    attribution: float


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a text gets a label, by integrated gradients (Sundararajan, Taly, Yan 2017).

    `label`, `probabilities`, `truncated` and `abstained` are those of /v1/score. `explained` is the label that the rest
    is about: `value` is its log-odds, ln(p / (1 − p)), and `baseline` the same with a mask in the place of every token.
    The attributions sum to value − baseline + gap; `gap` is the method's own error, `relative_gap` is its share of
    value − baseline, null where that is 0. Gradients need the model in fp32; where `fp32_label` is not `label`, the
    served model's rounding decided. Of a text that is read in windows the first alone is explained, and a later one may
    have decided, too.
    """

    model: str
    epoch: int
    label: Label
    probabilities: tuple[float, float, float]
    truncated: bool
    abstained: bool = False
    fp32_label: Label
    explained: Label
    tokens: list[Token]
    value: float
    baseline: float
    gap: float
    relative_gap: float | None
