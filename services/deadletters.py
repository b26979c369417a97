"""Dead letters: look at them, send them again, and clear a tripped service."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from typing import Any, Final

import msgspec

from services.monitor import embedded
from services.settings import Settings
from services.status import GROUPS
from services.stream.bus import Bus, Headers, Outgoing, Record, TopicPartition, read_to_end
from services.stream.database import transaction
from services.stream.errors import Misconfigured
from services.stream.topics import DEAD_SUFFIX, dead

OWN_HEADERS: Final = frozenset({"reason", "detail", "group", "origin"})
REPLAY_BATCH: Final = 500

log = logging.getLogger(__name__)


class DeadLetter(msgspec.Struct, frozen=True):
    """One dead letter. `place` is its own position, `origin` that of the event it was."""

    place: str
    arrived: int
    reason: str
    detail: str
    group: str
    origin: Any
    value: str


def dead_topic(settings: Settings, name: str) -> str:
    """The dead-letter topic of `name`, given with or without its suffix.

    Raises:
        Misconfigured: there is none.
    """
    topic = name if name.endswith(DEAD_SUFFIX) else dead(name)
    known = [t.name for t in settings.topics() if t.name.endswith(DEAD_SUFFIX)]
    if topic not in known:
        raise Misconfigured(f"there is no topic {topic}; dead letters lie in {', '.join(known)}")
    return topic


def letters(bus: Bus, topic: str) -> Iterator[Record]:
    """Every kept dead letter of `topic` up to where the topic ends now.

    Raises:
        Transient: see `read_to_end`.
    """
    ends = bus.ends(topic)
    with closing(bus.reader([topic])) as reader:
        yield from read_to_end(reader, ends)


def describe(record: Record) -> DeadLetter:
    """For people: the headers read, the value as text."""
    headers = dict(record.headers)
    return DeadLetter(
        place=f"{record.partition}:{record.offset}",
        arrived=record.timestamp,
        reason=_text(headers, "reason"),
        detail=_text(headers, "detail"),
        group=_text(headers, "group"),
        origin=json.loads(headers.get("origin", b"null")),
        value=record.value.decode("utf-8", "backslashreplace"),
    )


def _text(headers: dict[str, bytes], name: str) -> str:
    return headers.get(name, b"").decode("utf-8", "replace")


def replay(bus: Bus, topic: str, reason: str | None = None, again: bool = False) -> int:
    """Publish dead letters to the topic they came from, each at most once unless `again`; how many.

    A letter whose value was cut to fit is not the event any more and stays where it is.
    """
    source = topic.removesuffix(DEAD_SUFFIX)
    with closing(bus.journal(f"dlq.{topic}", source)) as journal:
        replayed = Replayed(journal.mark)
        count = cut = 0
        waiting: list[Outgoing] = []
        for record in letters(bus, topic):
            its = _text(dict(record.headers), "reason")
            if (reason is None or its == reason) and (again or not replayed.covers(record, its)):
                if _is_cut(record):
                    cut += 1
                else:
                    waiting.append(Outgoing(source, record.key, record.value, _as_it_was(record.headers)))
            replayed.passed(record, reason)
            if len(waiting) >= REPLAY_BATCH:
                journal.publish(waiting, replayed.mark())
                count, waiting = count + len(waiting), []
        if waiting:
            journal.publish(waiting, replayed.mark())
    if cut:
        log.warning("%d letters of %s were cut to fit and can't be replayed", cut, topic)
    return count + len(waiting)


class Replayed:
    """Up to where letters were replayed, per reason and partition; '' stands for those of any reason.

    Its text is the journal's mark, so it moves with what is published.
    """

    def __init__(self, mark: str) -> None:
        self._upto: dict[str, dict[str, int]] = json.loads(mark or "{}")

    def covers(self, record: Record, reason: str) -> bool:
        """Whether a letter of this reason was replayed before, with its own kind or with all."""
        return any(record.offset < self._upto.get(of, {}).get(str(record.partition), 0) for of in ("", reason))

    def passed(self, record: Record, reason: str | None) -> None:
        """A replay of `reason`, or of all, has come past this letter."""
        upto = self._upto.setdefault(reason or "", {})
        upto[str(record.partition)] = max(record.offset + 1, upto.get(str(record.partition), 0))

    def mark(self) -> str:
        """As the journal stores it."""
        return json.dumps(self._upto)


def _is_cut(record: Record) -> bool:
    # Put last by `dead_letter`; anywhere else it is the event's own.
    return bool(record.headers) and record.headers[-1][0] == "cut"


def _as_it_was(headers: Headers) -> Headers:
    return tuple((name, value) for name, value in headers if name not in OWN_HEADERS)


def resume(settings: Settings, group: str) -> bool:
    """Clear a trip; whether there was one."""
    with closing(settings.connector("dlq")()) as connection, transaction(connection), connection.cursor() as cursor:
        cursor.execute("DELETE FROM trip WHERE grp = %s", (group,))
        return bool(cursor.rowcount)


def check_reads(settings: Settings, group: str, topic: str) -> None:
    """A position that nobody reads would be kept, and nothing would come of it.

    Raises:
        Misconfigured: there is no such group, it doesn't read the topic, or its positions are not the log's.
    """
    if group not in GROUPS:
        raise Misconfigured(f"there is no group {group}; the groups are {', '.join(GROUPS)}")
    if topic not in GROUPS[group]:
        raise Misconfigured(f"{group} doesn't read {topic}; it reads {', '.join(GROUPS[group])}")
    if group == embedded.GROUP and settings.bus != "embedded":
        raise Misconfigured(
            "on Kafka the monitor goes on from what its own rows have counted, and counts nothing twice; there is"
            " nothing to move"
        )


def positions(bus: Bus, topic: str, start: str) -> dict[TopicPartition, int]:
    """Where a replay starts: `oldest`, `newest`, a time (RFC 3339 or epoch ms), or an offset for every partition.

    Raises:
        Misconfigured: `start` is none of these.
    """
    if start == "oldest":
        return dict(bus.begins(topic))
    if start == "newest":
        return dict(bus.ends(topic))
    if start.startswith("offset:"):
        begins, ends = bus.begins(topic), bus.ends(topic)
        offset = int(start.removeprefix("offset:"))
        return {place: min(max(offset, begins[place]), ends[place]) for place in ends}
    try:
        at = int(start) if start.isdigit() else int(datetime.fromisoformat(start).timestamp() * 1000)
    except ValueError:
        raise Misconfigured(
            f"--from takes oldest, newest, offset:N, or a time such as 2026-01-31T12:00:00Z, not {start!r}"
        ) from None
    return dict(bus.offsets_at(topic, at))
