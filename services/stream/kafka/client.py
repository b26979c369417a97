"""The one file that imports kafka-python: its settings, its errors in our tree, its untyped objects behind typed calls.

Retries wait 1 ms in producers (a one-record transaction takes 106 ms at the default of 100) and 20 ms elsewhere.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from kafka import (  # type: ignore[import-untyped]
    ConsumerGroupMetadata,
    ConsumerRebalanceListener,
    KafkaAdminClient,
    KafkaConsumer,
    KafkaProducer,
    OffsetAndMetadata,
)
from kafka import TopicPartition as KafkaPartition
from kafka import errors as kinds
from kafka.admin import ConfigResource, ConfigResourceType  # type: ignore[import-untyped]
from kafka.errors import KafkaError  # type: ignore[import-untyped]
from kafka.protocol.consumer import IsolationLevel, OffsetSpec  # type: ignore[import-untyped]
from kafka.record import memory_records  # type: ignore[import-untyped]
from kafka.record.default_records import DefaultRecordBatch  # type: ignore[import-untyped]
from kafka.record.util import decode_varint  # type: ignore[import-untyped]

from services.stream.bus import Record, TopicPartition
from services.stream.errors import (
    Fatal,
    Fenced,
    Misconfigured,
    Rejected,
    SlotTaken,
    TickerloopError,
    Transient,
    Truncated,
)
from services.stream.events import LAST_MS

__all__ = ["IsolationLevel", "KafkaError", "KafkaPartition", "OffsetSpec", "kinds"]

SESSION_MS: Final = 8_000
"""Silence after which a member's partitions go to others."""
TRANSACTION_MS: Final = 10_000
"""Longest open transaction; a dead producer's hides later records for this long unless its slot is started again."""
REBALANCE_MS: Final = 120_000
"""How long the others wait for a member that is inside a step and hasn't called `keep`."""
WAIT_MS: Final = 15_000
"""Longest wait for an answer of the broker, above `TRANSACTION_MS`: whatever is pending has been decided by then."""
REACH_S: Final = 2.0
MAX_REQUEST_BYTES: Final = 8_000_000

_COMMON: Final[dict[str, Any]] = {
    "request_timeout_ms": WAIT_MS,
    "bootstrap_timeout_ms": WAIT_MS,
    "reconnect_backoff_max_ms": 1_000,
}

_KINDS: Final[tuple[tuple[tuple[type[Exception], ...], type[TickerloopError]], ...]] = (
    ((kinds.ProducerFencedError, kinds.FencedInstanceIdError), SlotTaken),
    (
        (
            kinds.CommitFailedError,
            kinds.IllegalGenerationError,
            kinds.UnknownMemberIdError,
            kinds.RebalanceInProgressError,
        ),
        Fenced,
    ),
    ((kinds.OffsetOutOfRangeError, kinds.LogTruncationError), Truncated),
    (
        (
            kinds.AuthorizationError,
            kinds.SaslAuthenticationFailedError,
            kinds.KafkaConfigurationError,
            kinds.UnsupportedVersionError,
            kinds.UnsupportedCodecError,
            kinds.OffsetMetadataTooLargeError,
        ),
        Misconfigured,
    ),
)


def translated(error: Exception) -> TickerloopError:
    """The error of our tree that a client's error stands for; what is neither known nor worth a retry is fatal."""
    if isinstance(error, kinds.MessageSizeTooLargeError | kinds.RecordListTooLargeError):
        return Rejected("oversize", str(error))
    for theirs, ours in _KINDS:
        if isinstance(error, theirs):
            return ours(f"{type(error).__name__}: {error}")
    kind = Transient if getattr(error, "retriable", False) else Fatal
    return kind(f"{type(error).__name__}: {error}")


@contextmanager
def mapped() -> Iterator[None]:
    """Turn the client's errors into ours.

    Raises:
        TickerloopError: see `translated`.
    """
    try:
        yield
    except KafkaError as error:
        raise translated(error) from error


def _reach(bootstrap: str) -> None:
    """Make sure that a broker listens: a client that can't bootstrap in its constructor leaves a thread behind, trying.

    Raises:
        Transient: none does.
    """
    reasons = []
    for address in bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()
            return
        except OSError as error:
            reasons.append(f"{address}: {error}")
    raise Transient("; ".join(reasons))


def admin(bootstrap: str) -> Any:
    """A new KafkaAdminClient; its calls may come from any thread."""
    _reach(bootstrap)
    with mapped():
        return KafkaAdminClient(bootstrap_servers=bootstrap, retry_backoff_ms=20, **_COMMON)


def producer(bootstrap: str, transactional_id: str | None = None) -> Any:
    """A new KafkaProducer: idempotent, every replica acknowledges; with an id, transactional.

    Inside transactions records wait for the flush, so that they travel in few requests.
    """
    transactional = {"transactional_id": transactional_id, "linger_ms": 1_000} if transactional_id else {}
    _reach(bootstrap)
    with mapped():
        return KafkaProducer(
            bootstrap_servers=bootstrap,
            acks="all",
            transaction_timeout_ms=TRANSACTION_MS,
            delivery_timeout_ms=TRANSACTION_MS,
            max_block_ms=WAIT_MS,
            retry_backoff_ms=1,
            batch_size=256 * 1024,
            max_request_size=MAX_REQUEST_BYTES,
            metrics_enabled=False,
            **_COMMON | {"request_timeout_ms": TRANSACTION_MS // 2},
            **transactional,
        )


def alter_topics(admin: Any, settings: Mapping[str, Mapping[str, str]]) -> None:
    """Set these settings of these topics; others stay.

    Raises:
        KafkaError: the broker refuses one.
    """
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, dict(its)) for name, its in settings.items()])


def end(client: Any) -> None:
    """Close a producer without waiting for what it still holds.

    `close` gives up in its own flush when the broker is away, and would leave the sender trying for ever.
    """
    try:
        client.close(timeout=1)
    except KafkaError:
        client._sender.force_close()


def consumer(bootstrap: str, group: str | None = None, instance: str | None = None, max_records: int = 500) -> Any:
    """A new KafkaConsumer that reads committed records only and neither commits nor resets a position by itself."""
    _reach(bootstrap)
    with mapped():
        return KafkaConsumer(
            bootstrap_servers=bootstrap,
            group_id=group,
            group_instance_id=instance,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            allow_auto_create_topics=False,
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=SESSION_MS // 4,
            max_poll_interval_ms=REBALANCE_MS,
            max_poll_records=max_records,
            max_partition_fetch_bytes=MAX_REQUEST_BYTES // 2,
            fetch_max_wait_ms=250,  # a fetch in flight holds back the one that a seek asks for
            retry_backoff_ms=20,
            metrics_enabled=False,
            **_COMMON,
        )


class _AnyNames(DefaultRecordBatch):  # type: ignore[misc]
    """A fetched batch that takes any bytes as the name of a header, as brokers and other clients do.

    kafka-python calls a record corrupt whose header's name is not UTF-8, and would never get past it.
    """

    def _read_msg(self, *arguments: Any) -> Any:
        try:
            return super()._read_msg(*arguments)  # moves on only when it has read the whole record
        except UnicodeDecodeError:
            self._mend_names()
            return super()._read_msg(*arguments)

    def _mend_names(self) -> None:
        """Put ? for each byte above ASCII in the names that aren't UTF-8: their lengths stay."""
        buffer, at = self._buffer, self._pos
        for _ in ("length", "attributes", "timestamp", "offset"):
            _, at = decode_varint(buffer, at)
        for _ in ("key", "value"):
            at = _after(buffer, at)
        count, at = decode_varint(buffer, at)
        for _ in range(count):
            size, start = decode_varint(buffer, at)
            name = bytes(buffer[start : start + size])
            try:
                name.decode()
            except UnicodeDecodeError:
                buffer[start : start + size] = bytes(byte if byte < 0x80 else ord("?") for byte in name)
            at = _after(buffer, start + size)


def _after(buffer: bytearray, at: int) -> int:
    """Where the nullable bytes that start `at` end."""
    size, start = decode_varint(buffer, at)
    return int(start + max(0, size))


memory_records.DefaultRecordBatch = _AnyNames  # the one place that makes them; there is no setting


def is_fenced(member: Any) -> bool:
    """Whether another member has taken this one's `group_instance_id`.

    kafka-python learns it from a heartbeat, stops the heartbeats and says nothing: `poll` goes on giving records.
    """
    coordinator = member._coordinator
    return bool(coordinator.stable() and not coordinator.rejoin_needed and not coordinator._heartbeat_enabled)


def beat(member: Any) -> None:
    """Ask the group now whether this member is still who it thinks.

    Raises:
        KafkaError: FencedInstanceIdError, RebalanceInProgressError, UnknownMemberIdError...
    """
    coordinator = member._coordinator
    coordinator._net.run(coordinator._send_heartbeat_request)


def attend(member: Any) -> None:
    """Take part in the group, joining again if need be, without fetching."""
    member._coordinator.poll(timeout_ms=0)


def leave(member: Any, timeout_ms: int) -> None:
    """Close, and leave the group at once: kafka-python lets a static member's session run out instead.

    The request names member id and instance, so a fenced member doesn't end its successor.
    """
    member._coordinator.is_dynamic_member = lambda: True
    member.close(autocommit=False, timeout_ms=timeout_ms)


def resume(member: Any, place: TopicPartition) -> None:
    """Fetch a paused partition again.

    What it had buffered at the pause is thrown away and fetched anew: kafka-python would bring it back only when its
    slot for the current partition is empty, which it never is while other partitions have records, and fetches nothing
    in the meantime.
    """
    member._fetcher._paused_completed_fetches.pop(place_of(place), None)
    member._fetcher._paused_partition_records.pop(place_of(place), None)
    member.resume(place_of(place))


class Watch(ConsumerRebalanceListener):  # type: ignore[misc]
    """Tells of a new assignment. Runs on the client's own thread, while the caller waits inside `poll`."""

    def __init__(self, gained: Callable[[list[TopicPartition]], None], lost: Callable[[], None]) -> None:
        self._gained, self._lost = gained, lost

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        """All partitions owned from now on, the kept ones among them."""
        self._gained([TopicPartition(*place) for place in sorted(assigned)])

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:  # noqa: ARG002 (all are revoked)
        """The group rebalances: all partitions are given back first."""
        self._lost()

    def on_partitions_lost(self, lost: Iterable[Any]) -> None:  # noqa: ARG002 (all are lost)
        """The session ran out."""
        self._lost()


def place_of(place: TopicPartition) -> Any:
    """The client's own kind of address; it refuses any other tuple."""
    return KafkaPartition(*place)


def offsets_of(positions: Mapping[TopicPartition, tuple[int, str]]) -> dict[Any, Any]:
    """Positions and marks as the client takes them."""
    return {place_of(place): OffsetAndMetadata(position, mark, -1) for place, (position, mark) in positions.items()}


def group_only(group: str) -> Any:
    """Membership for a group without members: a journal's, fenced by its transactional id alone."""
    return ConsumerGroupMetadata(group_id=group)


def record_of(record: Any) -> Record:
    """A record as read; any client may have left out key or value, or sent a header without one.

    On a topic that somebody made without `message.timestamp.type=LogAppendTime` it also says when it arrived, in any
    64-bit number: what is no `Millis` is brought to the nearest.
    """
    return Record(
        record.topic,
        record.partition,
        record.offset,
        min(max(record.timestamp, 0), LAST_MS),
        record.key or b"",
        record.value or b"",
        tuple((name, value or b"") for name, value in record.headers or ()),
    )
