"""Erasing a text and its copies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing

import msgspec
import redis
from psycopg2.extensions import cursor as Cursor

from services.erasure import log, rows
from services.erasure.refusal import Mark, content, identity, refuse, refused_ids
from services.erasure.request import Erasure, Request, record, traced
from services.settings import Settings
from services.stream.bus import Bus, Record
from services.stream.database import Connect, transaction
from services.stream.errors import Rejected, Transient
from services.stream.events import RawText, decode, derived_id


def id_of(source: str, external_id: str) -> str:
    """The id of the text that `source` calls `external_id`; see `services.stream.events.text_id`."""
    return derived_id("id", source, external_id)


def erase_text(settings: Settings, text_id: str, how: Request) -> Erasure:
    """Erase a text and its copies. It may be repeated, and then takes what has come since.

    Raises:
        Rejected: nothing here is known of such a text.
        Transient: a server is away; what was done before stays done, and the rest is done when asked again.
    """
    connect = settings.connector("erase")
    with closing(settings.open_bus("erase")) as bus:
        ids = _with_copies(connect, bus, text_id)
        records = [found for found in log.kept(bus, log.TOPICS) if not ids.isdisjoint(log.named(found).ids)]
        with closing(connect()) as connection, transaction(connection), connection.cursor() as cursor:
            erasure, tickers = _erase_rows(cursor, settings, ids, records, how)
        if how.dry:
            return erasure
        emptied = bus.erase(records)
    keys = _forget(settings, ids, tickers)
    return msgspec.structs.replace(erasure, emptied=emptied, rows=erasure.rows | {"valkey": keys})


def _with_copies(connect: Connect, bus: Bus, text_id: str) -> set[str]:
    with closing(connect()) as connection, transaction(connection), connection.cursor() as cursor:
        cursor.execute("SELECT text_id, copy_of FROM claim WHERE copy_of IS NOT NULL")
        claimed = cursor.fetchall()
    return log.cluster(text_id, [*claimed, *log.copies(bus)])


def _erase_rows(
    cursor: Cursor, settings: Settings, ids: Collection[str], records: Sequence[Record], how: Request
) -> tuple[Erasure, list[str]]:
    """In one transaction: refuse the texts from now on, delete their rows, write it down. With their tickers."""
    known = list(ids)
    found = rows.count(cursor, known)
    if not records and not any(found.values()) and not refused_ids(cursor, known):
        raise Rejected("unknown", "there is no such text in the tables, nor in the topics that carry texts")
    cursor.execute("SELECT DISTINCT unnest(tickers) FROM prediction WHERE text_id = ANY(%s)", (known,))
    tickers = [ticker for (ticker,) in cursor.fetchall()]
    cursor.execute("SELECT example_id FROM example WHERE text_id = ANY(%s)", (known,))
    examples = [example for (example,) in cursor.fetchall()]
    erasure = Erasure(
        kind="text",
        subjects=sorted(ids),
        rows=found,
        records=dict(sorted(Counter(one.topic for one in records).items())),
        gone_by=_gone_by(settings, records),
    )
    erasure = traced(cursor, erasure, examples, how)
    if not how.dry:
        refuse(cursor, _marks(cursor, known, records))
        rows.delete(cursor, known)
        record(cursor, erasure, how.actor)
    return erasure, tickers


def _gone_by(settings: Settings, records: Sequence[Record]) -> int | None:
    if settings.bus == "embedded" or not records:
        return None
    return max(one.timestamp for one in records) + settings.text_retention_s * 1000


def _marks(cursor: Cursor, ids: Sequence[str], records: Sequence[Record]) -> Iterator[Mark]:
    """All that these texts can be known again by."""
    yield from map(identity, ids)
    cursor.execute("SELECT content FROM claim WHERE text_id = ANY(%s)", (ids,))
    yield from (Mark("sent", bytes(found)) for (found,) in cursor.fetchall())
    cursor.execute("SELECT body FROM text WHERE text_id = ANY(%s)", (ids,))
    yield from (Mark("cleaned", body.encode()) for (body,) in cursor.fetchall())
    yield from (Mark("sent", content(raw)) for raw in filter(None, map(_raw, records)))


def _raw(found: Record) -> RawText | None:
    try:
        return decode(RawText, found.value) if found.topic in log.SENT else None
    except Rejected:
        return None


def _forget(settings: Settings, ids: Collection[str], tickers: Collection[str]) -> int:
    if not settings.redis:
        return 0
    try:
        with closing(redis.Redis.from_url(settings.redis, socket_timeout=5, socket_connect_timeout=5)) as valkey:
            return rows.forget(valkey, ids, tickers)
    except redis.RedisError as error:
        raise Transient(f"Valkey is away, and holds hashes of the text still: {error}; erase it again") from error
