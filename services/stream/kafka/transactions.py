"""A transactional producer that is thrown away at the first failure.

kafka-python keeps the offsets of a refused commit and sends them with the next transaction's, for partitions that may
have another owner by then; it waits for ever for a broker that is away; and after an epoch bump in the middle of a
commit it reports success. So: every record is confirmed before the commit starts, every wait has an end, and after a
failure the next transaction is a new producer's, whose start decides whatever the old one left open.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from services.stream.bus import Outgoing, TopicPartition
from services.stream.errors import Fatal, TickerloopError, Transient
from services.stream.kafka import client
from services.stream.kafka.client import TRANSACTION_MS, WAIT_MS, KafkaError, kinds, mapped, translated

Placed = list[tuple[TopicPartition, int]]

ABORT_MS = 2_000
"""An abort only spares readers the transaction's timeout; a broker that is away won't get it anyway."""


class Transactions:
    """Transactions under one id; opening it fences the earlier holder and ends what that one left open.

    `events` must carry their partition. Not thread-safe.
    """

    def __init__(self, bootstrap: str, transactional_id: str) -> None:
        self._producer = client.producer(bootstrap, transactional_id)
        self.usable = True
        try:
            with mapped():
                self._producer.init_transactions()
        except BaseException:
            self.close()
            raise

    def commit(self, events: Sequence[Outgoing], offsets: dict[Any, Any] | None = None, member: Any = None) -> Placed:
        """Publish and store offsets, all or nothing; where each event lies.

        Raises:
            SlotTaken: the id has a new holder.
            Fenced: `member` isn't who the group knows.
            Transient: not known to be committed; what is, a new producer's start decides.
        """
        began = time.monotonic()
        try:
            return self._attempt(events, offsets, member)
        except KafkaError as error:
            raise self._failure(error, time.monotonic() - began) from error
        finally:
            if not self.usable:
                self.close()

    def _attempt(self, events: Sequence[Outgoing], offsets: dict[Any, Any] | None, member: Any) -> Placed:
        self.usable = False
        self._producer.begin_transaction()
        placed = send(self._producer, events)
        if offsets:
            self._wait(self._manager.send_offsets_to_transaction(offsets, member), WAIT_MS)
        self._wait(self._manager.begin_commit(), WAIT_MS)
        self.usable = True
        return placed

    @property
    def _manager(self) -> Any:
        return self._producer._transaction_manager

    def _wait(self, result: Any, timeout_ms: int) -> None:
        self._producer._sender.wakeup()
        if not result.wait(timeout_ms=timeout_ms):
            raise kinds.KafkaTimeoutError(f"no answer within {timeout_ms} ms")

    def _failure(self, error: Exception, elapsed: float) -> TickerloopError:
        cause = self._manager.last_error or error
        with suppress(KafkaError):
            self._wait(self._manager.begin_abort(), ABORT_MS)
        if isinstance(cause, kinds.ProducerFencedError) and elapsed * 1000 >= TRANSACTION_MS:
            return Transient(f"the broker ended a transaction that took {elapsed:.1f} s")
        ours = translated(cause)
        # Whatever went wrong inside, the transaction isn't committed, and a new producer may fare better.
        return Transient(str(ours)) if type(ours) is Fatal else ours

    def close(self) -> None:
        """Free the producer, waiting for nothing."""
        self.usable = False
        client.end(self._producer)


def send(producer: Any, events: Sequence[Outgoing]) -> Placed:
    """Send and wait until every record is acknowledged; `commit` alone would not tell of a lost one."""
    futures = [
        producer.send(e.topic, value=e.value, key=e.key, headers=list(e.headers), partition=e.partition) for e in events
    ]
    producer.flush(timeout=WAIT_MS / 1000)
    written = [future.get(timeout=WAIT_MS / 1000) for future in futures]
    return [(TopicPartition(w.topic, w.partition), w.offset) for w in written]
