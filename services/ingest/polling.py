"""One visit to one feed: what is remembered of it, what it gave, and when to come again."""

from __future__ import annotations

import base64
import random
from collections.abc import Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple

import msgspec

from services.ingest.entries import parse_apart
from services.ingest.envelope import Problem
from services.ingest.fetch import Answer, Fetcher, parsed
from services.ingest.guard import Refused, Unreachable
from services.ingest.robots import Robots
from services.stream.events import RawText, derived_id, text_id

SEEN_BYTES: Final = 4
"""Of an entry's hash: among 590 entries, a new one is taken for a known one once in seven million times."""
MAX_SEEN: Final = 590
"""As many fit into the 4,096 bytes that Kafka keeps. An entry beyond is published again and found by its id."""
MAX_TAG_CHARS: Final = 200
MAX_RETRY_AFTER_S: Final = 24 * 3600.0


class Pace(NamedTuple):
    """Seconds: between two visits to a feed, between two requests to a host, of the backoff of a broken feed."""

    feed_s: float = 300.0
    host_s: float = 5.0
    backoff_s: float = 60.0
    backoff_last_s: float = 3600.0

    def after_failures(self, count: int) -> float:
        """Exponential, with a quarter of jitter."""
        return min(self.backoff_last_s, self.backoff_s * 2.0 ** min(count - 1, 20)) * random.uniform(0.75, 1.25)  # noqa: S311

    def after_success(self) -> float:
        """With a tenth of jitter, so that feeds don't fall into step."""
        return self.feed_s * random.uniform(0.9, 1.1)  # noqa: S311 (jitter, not a secret)


class FeedMark(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is remembered of a feed; stored as JSON with what it published."""

    due: int = 0
    """When to come again, in ms since the epoch."""
    tag: str = ""
    modified: str = ""
    seen: str = ""
    """Base64 of `SEEN_BYTES` of each known entry's hash, newest document first."""
    failures: int = 0
    gone: bool = False

    def encoded(self) -> str:
        """As the journal stores it."""
        return msgspec.json.encode(self).decode()


class Outcome(NamedTuple):
    """What a visit gave. The host is left alone for `host_s` seconds; `note` is for the log."""

    mark: FeedMark
    texts: Sequence[RawText] = ()
    problems: Sequence[Problem] = ()
    host_s: float = 0.0
    note: str = ""


def visit(address: str, mark: FeedMark, fetcher: Fetcher, robots: Robots, pace: Pace, now_ms: int) -> Outcome:
    """Fetch a feed if it changed; new entries become texts. Never raises for what a stranger's server can do."""
    conditions = {"If-None-Match": mark.tag, "If-Modified-Since": mark.modified}
    headers = {"Accept": "application/atom+xml, application/rss+xml, application/xml;q=0.9, */*;q=0.5"}
    host_s = pace.host_s
    try:
        answer = fetcher.get(address, headers | {k: v for k, v in conditions.items() if v}, robots.check)
        host_s = max(host_s, robots.delay(parsed(address)), _retry_after(answer, now_ms))
        outcome = _understood(address, mark, answer)
    except Unreachable as error:
        return failed(mark, error, pace, host_s, now_ms)
    due = now_ms + int(max(pace.after_success(), host_s) * 1000)
    return outcome._replace(mark=msgspec.structs.replace(outcome.mark, due=due, failures=0), host_s=host_s)


def failed(mark: FeedMark, error: Exception, pace: Pace, host_s: float, now_ms: int) -> Outcome:
    """The visit came to nothing: come again later than the last time."""
    failures = mark.failures + 1
    wait = max(pace.after_failures(failures), host_s)
    kind = "refused" if isinstance(error, Refused) else "failed"
    later = msgspec.structs.replace(mark, failures=failures, due=now_ms + int(wait * 1000))
    return Outcome(later, host_s=host_s, note=f"{kind}: {error}; again in {wait:,.0f} s")


def _understood(address: str, mark: FeedMark, answer: Answer) -> Outcome:
    if answer.status == 304:
        return Outcome(mark)
    if answer.status == 410:
        return Outcome(msgspec.structs.replace(mark, gone=True), note="gone (410): it is not asked for again")
    if answer.status != 200:
        raise Unreachable(f"answers {answer.status}")
    host = parsed(address).host[:200]
    found = parse_apart(answer.body, answer.headers.get("content-type", ""), str(answer.url), host)
    known = _unpacked(mark.seen)
    hashes = [_hash(text_id(text)) for text in found.texts]
    problem_hashes = [_hash(derived_id(problem.detail, problem.raw.hex())) for problem in found.problems]
    texts = [text for text, digest in zip(found.texts, hashes, strict=True) if digest not in known]
    problems = [p for p, digest in zip(found.problems, problem_hashes, strict=True) if digest not in known]
    fresh = FeedMark(
        tag=_short(answer.headers.get("etag", "")),
        modified=_short(answer.headers.get("last-modified", "")),
        seen=_packed([*hashes, *problem_hashes, *known]),
    )
    oldest_first = {text_id(text): text for text in reversed(texts)}
    return Outcome(fresh, list(oldest_first.values()), problems)


def _short(value: str) -> str:
    return value if len(value) <= MAX_TAG_CHARS and value.isascii() else ""


def _hash(identity: str) -> bytes:
    return bytes.fromhex(identity)[:SEEN_BYTES]


def _packed(hashes: Sequence[bytes]) -> str:
    return base64.b64encode(b"".join(list(dict.fromkeys(hashes))[:MAX_SEEN])).decode()


def _unpacked(seen: str) -> dict[bytes, None]:
    raw = base64.b64decode(seen)
    return dict.fromkeys(raw[at : at + SEEN_BYTES] for at in range(0, len(raw), SEEN_BYTES))


def _retry_after(answer: Answer, now_ms: int) -> float:
    """Seconds that the host asks for, as a number or a date (RFC 9110, 10.2.3); 0 where it asks for none."""
    value = answer.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return min(MAX_RETRY_AFTER_S, float(value[:9]))
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return 0.0
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return min(MAX_RETRY_AFTER_S, max(0.0, at.timestamp() - now_ms / 1000))
