"""What the topics carry: one struct per topic, JSON on the wire, ids derived and never random.

The JSON Schemas in `schemas/events/` are generated from this file (`python -m schemas.generate`); a test fails when
they drift. All times are integer milliseconds since the Unix epoch, UTC.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from services.stream.errors import Rejected

Label = Literal["negative", "neutral", "positive"]
LABELS: Final[tuple[Label, ...]] = ("negative", "neutral", "positive")
"""Class order of every probability vector in the project."""

MAX_TEXT_CHARS: Final = 200_000
"""Longest raw text taken; an annual report's chapter fits, a dump of a site does not."""

Name = Annotated[str, Meta(min_length=1, max_length=200)]
ShortText = Annotated[str, Meta(max_length=2_000)]
LAST_MS: Final = 253_402_300_799_999
"""The end of the year 9999, where most calendars stop."""
Millis = Annotated[int, Meta(ge=0, le=LAST_MS)]
Probability = Annotated[float, Meta(ge=0.0, le=1.0)]


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all events; unknown fields are ignored so that a newer writer doesn't break an older reader."""


class Origin(Struct, frozen=True, array_like=True):
    """The log position an event was made from."""

    topic: str
    partition: int
    offset: int


class RawText(Event, frozen=True, kw_only=True):
    """`texts.raw`: what a source sent. Any client may write it as plain JSON; only `text` is required."""

    text: Annotated[str, Meta(max_length=MAX_TEXT_CHARS)]
    source: Name = "unknown"
    id: Annotated[str, Meta(min_length=1, max_length=500)] | None = None
    """The source's own id; without one the content is the identity."""
    title: ShortText | None = None
    url: ShortText | None = None
    published: str | int | float | None = None
    """RFC 3339 text or epoch seconds or milliseconds; arrival time when absent."""
    language: Annotated[str, Meta(max_length=35)] | None = None


class CleanText(Event, frozen=True, kw_only=True):
    """`texts.clean`: normalised, private data masked, tickers found, first of its cluster."""

    text_id: str
    cluster: str
    """Text id of the first member of this near-duplicate cluster; equal for all its copies."""
    text: str
    source: str
    event_time: Millis
    received: Millis
    language: str
    external_id: str | None = None
    url: str | None = None
    tickers: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    """What cleaning noticed or changed, e.g. `masked:email`, `clamped:future`."""
    origin: Origin


class RejectedText(Event, frozen=True, kw_only=True):
    """`texts.rejected`: a text that is not scored, as it came (but for NUL), and why."""

    text_id: str
    reason: str
    """`duplicate:id`, `duplicate:exact`, `duplicate:near`, `id_reused`, `language`, `empty`, `too_short`, ..."""
    detail: str = ""
    source: str
    text: str
    duplicate_of: str | None = None
    origin: Origin


class Prediction(Event, frozen=True, kw_only=True):
    """`predictions`, and `predictions.shadow` of a challenger that is only watched: no text, so that erasing a text is
    deleting one row and waiting out short topics."""

    prediction_id: str
    text_id: str
    cluster: str
    label: Label
    probabilities: tuple[Probability, Probability, Probability]
    """In the order of `LABELS`."""
    model: str
    epoch: int
    tickers: tuple[str, ...] = ()
    source: str
    language: str
    event_time: Millis
    scored: Millis
    truncated: bool = False
    """Only the text's start was read."""
    abstained: bool = False
    """The greatest probability is below the model's threshold; the label is the likeliest all the same."""
    foreign: bool = False
    """The text is in a language that the model isn't meant for."""
    origin: Origin

    @property
    def sentiment(self) -> float:
        """P(positive) − P(negative), in [−1, 1]."""
        return self.probabilities[2] - self.probabilities[0]


class Mention(Event, frozen=True, kw_only=True):
    """`mentions`, keyed by ticker: one per (prediction, ticker), so that an aggregate has one source partition."""

    prediction_id: str
    text_id: str
    ticker: str
    label: Label
    sentiment: Annotated[float, Meta(ge=-1.0, le=1.0)]
    event_time: Millis
    model: str
    epoch: int


SaidKind = Literal["correction", "confirmation", "flag", "comment"]
"""What a person says of a prediction."""
FeedbackKind = Literal[SaidKind, "outcome", "withdrawal"]
"""`outcome`: a label that a system learned later. `withdrawal`: an earlier word is taken back."""
Flag = Literal["spam", "not_financial", "wrong_ticker"]
"""What is wrong with a text, whatever its label."""
Standing = Literal["annotator", "operator", "local"]
"""What the speaker's key allowed when the word was given; `local`: there were no keys, and names were taken as
given."""


class Feedback(Event, frozen=True, kw_only=True):
    """`feedback.raw`: one person's word on one prediction, or a system's."""

    feedback_id: str
    """See `feedback_id`: sent twice, counted once."""
    prediction_id: str
    text_id: str
    kind: FeedbackKind
    label: Label | None = None
    """Of a correction, a confirmation and an outcome, and only of those."""
    flag: Flag | None = None
    """Of a flag, and only of a flag."""
    withdraws: str | None = None
    """The word that a withdrawal takes back, and only of a withdrawal."""
    annotator: Name
    """A pseudonym: `services.annotators` knows whose, until that person is erased."""
    role: Standing = "annotator"
    """Without it the least is believed."""
    sampled: bool = False
    """True when the text was shown by random sampling, so the label is unbiased evidence; counts if it is held out."""
    given: Millis

    def __post_init__(self) -> None:
        """Raises:
        ValueError: it lacks what its kind says, or holds what another kind would.
        """
        takes = {"flag": "flag", "withdrawal": "withdraws", "comment": ""}.get(self.kind, "label")
        for field in ("label", "flag", "withdraws"):
            if (getattr(self, field) is not None) != (field == takes):
                raise ValueError(f"a {self.kind} {'needs' if field == takes else 'has no'} `{field}`")

    @property
    def said(self) -> str:
        """What was said, in a word: the label, or what takes its place."""
        return said(self.kind, self.label, self.flag)


class Example(Event, frozen=True, kw_only=True):
    """`training.examples`: a label with its lineage, or a flag, or that a word was withdrawn; ids only."""

    example_id: str
    feedback_id: str
    """The word that this came from; of a withdrawal the word that no longer counts."""
    prediction_id: str
    text_id: str
    cluster: str
    kind: FeedbackKind = "correction"
    predicted: Label
    label: Label | None = None
    """Null of a flag and of a withdrawal."""
    flag: Flag | None = None
    model: str
    epoch: int
    annotator: str
    role: Standing = "annotator"
    sampled: bool = False
    holdout: bool
    """Fixed by the cluster's hash before anyone labelled it: held-out texts are never trained on."""
    given: Millis


ModelAction = Literal["promote", "rollback", "shadow", "unshadow", "withdraw"]


class ModelChange(Event, frozen=True, kw_only=True):
    """`models`: the champion, or what shadows it, from `epoch` on. Epoch = ledger sequence number."""

    epoch: int
    version: str
    action: ModelAction
    """`promote` and `rollback` change the champion; `withdraw` gives up a challenger that passed the gate. A shadow
    ends with the next change of any kind."""
    previous: str | None
    """The champion when it was decided, which a promotion or rollback replaces."""
    at: Millis


class Preparation(Event, frozen=True, kw_only=True):
    """`preparations`: scorers are asked whether they could serve `version`, before it is promoted. No change: the
    answers are in their rows of `service`, and whoever asks decides by them."""

    version: str
    at: Millis


def derived_id(*parts: str) -> str:
    """128-bit hex digest over length-prefixed parts, so that ('ab', 'c') and ('a', 'bc') differ."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.hexdigest()


def text_id(raw: RawText) -> str:
    """hash(source, external id), or hash(source, title, content) where the source gives no id."""
    if raw.id is not None:
        return derived_id("id", raw.source, raw.id)
    return derived_id("content", raw.source, raw.title or "", raw.text)


def prediction_id(text: str, model: str) -> str:
    """hash(text id, model version)."""
    return derived_id("prediction", text, model)


def said(kind: FeedbackKind, label: Label | None, flag: Flag | None) -> str:
    """What a word says: its label, `flag:` and the flag, or its kind."""
    return label or (f"flag:{flag}" if flag else kind)


def feedback_id(prediction: str, annotator: str, what: str, key: str | None = None) -> str:
    """hash(prediction, annotator, idempotency key), or hash(prediction, annotator, what was `said`) without a key."""
    if key is not None:
        return derived_id("feedback", "key", prediction, annotator, key)
    return derived_id("feedback", "word", prediction, annotator, what)


def withdrawal_id(withdrawn: str) -> str:
    """hash(the word's id): a word is withdrawn once, whoever does it."""
    return derived_id("feedback", "withdrawal", withdrawn)


def in_holdout(cluster: str, share: float = 0.25) -> bool:
    """Whether a cluster is held out: decided by its hash alone, before anyone labels it."""
    return int(derived_id("holdout", cluster)[:8], 16) < share * 0x1_0000_0000


E_ = TypeVar("E_", bound=Event)

ERASED: Final = b'"erased"'
"""Value of a record whose text was erased on request; it keeps its offset and, being its text's id, its key."""

_encoder = msgspec.json.Encoder()
_decoders: dict[type[Event], msgspec.json.Decoder[Any]] = {}


def encode(event: Event) -> bytes:
    """Compact UTF-8 JSON."""
    return _encoder.encode(event)


def decode(kind: type[E_], value: bytes) -> E_:
    """Parse and validate one event.

    Raises:
        Rejected: not UTF-8, not JSON, a wrong type, a missing field, or nesting beyond the decoder's limit; the
            detail names the field. Or the record was erased.
    """
    if value == ERASED:
        raise Rejected("erased", "its text was erased on request")
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    try:
        event: E_ = decoder.decode(value)
    except msgspec.ValidationError as error:
        raise Rejected("invalid", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected("malformed", f"not a JSON object in UTF-8: {error}") from None
    return event
