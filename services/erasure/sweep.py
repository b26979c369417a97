"""What was under way when its text was erased, or is sent again later: emptied as it passes the store."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from psycopg2.extensions import connection as Connection

from services.erasure import log
from services.erasure.refusal import refused_ids
from services.stream.bus import Bus, Record
from services.stream.database import Connect, transaction
from services.stream.errors import Transient
from services.stream.topics import RAW

PASSING: Final = frozenset(log.TOPICS) - {RAW}
"""A raw text is emptied with what was made of it: not before it was read."""

_log = logging.getLogger(__name__)


class Sweep:
    """Called after the store's commit. Where it is lost, in a crash, the topics' retention takes these texts."""

    def __init__(self, connect: Connect, bus: Bus) -> None:
        self._connect, self._bus = connect, bus
        self._connection: Connection | None = None

    def __call__(self, records: Sequence[Record]) -> None:
        """Empty those of erased texts, and the raw ones that they were made from."""
        passed = [(log.named(record), record) for record in records if record.topic in PASSING]
        if not passed:
            return
        try:
            gone = self._refused({text_id for one, _ in passed for text_id in one.ids})
            # What was refused by its content has an id that nobody knows yet.
            ours = [(one, r) for one, r in passed if one.reason == "erased" or not gone.isdisjoint(one.ids)]
            if ours:
                self._bus.erase([found for one, record in ours for found in (record, *one.made_from())])
        except Transient as error:
            _log.warning("texts that were erased lie in the topics until their retention: %s", error)

    def _refused(self, text_ids: set[str]) -> set[str]:
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
        with transaction(self._connection) as connection, connection.cursor() as cursor:
            return refused_ids(cursor, text_ids)
