"""The clean step: `texts.raw` → `texts.clean` or `texts.rejected`; what can't be read as a text is a dead letter."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import redis

from services.clean import entities, language
from services.clean.claims import Candidate, Copy
from services.clean.duplicates import Duplicates
from services.clean.pipeline import Cleaned, CleanSettings, clean, refused
from services.stream import topics
from services.stream.bus import Outgoing, Record, check_size
from services.stream.database import Connect
from services.stream.errors import Rejected
from services.stream.events import CleanText, Origin, RawText, RejectedText, decode, encode
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
        for at, record in enumerate(records):
            try:
                raw, result = self._clean(record)
                # Sizes are checked before anything is claimed: a text that can't be published must not outlast its
                # copies.
                answers.append([_outgoing(result.text if isinstance(result, Cleaned) else result)])
            except Rejected as rejected:
                answers.append(rejected)
                continue
            if isinstance(result, Cleaned):
                candidates[at] = raw, result, _candidate(raw, result)
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
    content = blake2b(digest_size=16)
    for part in (raw.title or "", raw.text):
        encoded = part.encode()
        content.update(len(encoded).to_bytes(8, "big") + encoded)
    text = cleaned.text
    return Candidate(text.text_id, content.digest(), text.origin, text.event_time, text.received, cleaned.fingerprint)


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
