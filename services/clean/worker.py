"""The clean step: `texts.raw` → `texts.clean` or `texts.rejected`; what can't be read as a text is a dead letter."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import redis

from services.clean import entities, language
from services.clean.claims import Candidate, Copy
from services.clean.duplicates import Duplicates
from services.clean.pipeline import Cleaned, CleanSettings, clean, refused
from services.erasure.refusal import Mark, content, identity
from services.stream import topics
from services.stream.bus import Outgoing, Record, check_size
from services.stream.database import Connect
from services.stream.errors import Rejected
from services.stream.events import CleanText, Origin, RawText, RejectedText, decode, encode, text_id
from services.stream.loop import Answer


class Clean:
    """Answers raw texts; see `services.stream.loop.Transform`. Not thread-safe.

    Raises:
        Misconfigured: the company table can't be read.
    """

    def __init__(self, connect: Connect, valkey: redis.Redis, settings: CleanSettings) -> None:
        entities.load(settings.companies)
        language.load()  # half a second, which the first text in doubt would wait
        self._settings = settings
        self._duplicates = Duplicates(connect, valkey, settings.copies_s, settings.claims_s)

    def __call__(self, records: Sequence[Record]) -> Sequence[Answer]:
        """One answer per record, in order; the same ones when asked again.

        Raises:
            Transient: PostgreSQL or Valkey is away.
        """
        answers: list[Answer] = []
        candidates: dict[int, tuple[RawText, Cleaned, Candidate]] = {}
        marks: dict[int, list[Mark]] = {}
        for at, record in enumerate(records):
            try:
                raw, result = self._clean(record)
                # Sizes are checked before anything is claimed: a text that can't be published must not outlast its
                # copies.
                answers.append([_outgoing(result.text if isinstance(result, Cleaned) else result)])
            except Rejected as rejected:
                answers.append(rejected)
                continue
            marks[at] = _marks(raw, result)
            if isinstance(result, Cleaned):
                candidates[at] = raw, result, _candidate(raw, result)
        erased = self._duplicates.erased({mark for known in marks.values() for mark in known})
        for at in (at for at, known in marks.items() if not erased.isdisjoint(known)):
            candidates.pop(at, None)
            answers[at] = _erased(records[at])
        verdicts = self._duplicates.judge([candidate for _, _, candidate in candidates.values()])
        for (at, (raw, cleaned, _)), copy in zip(candidates.items(), verdicts, strict=True):
            if copy is not None:
                answers[at] = _refusal(raw, cleaned.text, copy)
        return answers

    def _clean(self, record: Record) -> tuple[RawText, Cleaned | RejectedText]:
        raw = decode(RawText, record.value)
        origin = Origin(record.topic, record.partition, record.offset)
        return raw, clean(raw, record.timestamp, origin, self._settings)


def _candidate(raw: RawText, cleaned: Cleaned) -> Candidate:
    text = cleaned.text
    return Candidate(text.text_id, content(raw), text.origin, text.event_time, text.received, cleaned.fingerprint)


def _marks(raw: RawText, result: Cleaned | RejectedText) -> list[Mark]:
    found = [identity(text_id(raw)), Mark("sent", content(raw))]
    return [*found, Mark("cleaned", result.text.text.encode())] if isinstance(result, Cleaned) else found


def _erased(record: Record) -> Answer:
    """It came again: refused, and this time without its text."""
    raw = decode(RawText, record.value)
    origin = Origin(record.topic, record.partition, record.offset)
    return [_outgoing(msgspec.structs.replace(refused(raw, text_id(raw), "erased", origin), text=""))]


def _refusal(raw: RawText, text: CleanText, copy: Copy) -> Answer:
    try:
        return [_outgoing(refused(raw, text.text_id, copy.reason, text.origin, duplicate_of=copy.of))]
    except Rejected as rejected:
        return rejected


def _outgoing(event: CleanText | RejectedText) -> Outgoing:
    """Raises: Rejected: larger than an event may be."""
    topic = topics.CLEAN if isinstance(event, CleanText) else topics.REJECTED
    outgoing = Outgoing(topic, event.text_id.encode(), encode(event))
    check_size(outgoing, topics.MAX_EVENT_BYTES)
    return outgoing
