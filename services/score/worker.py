"""The score worker: texts.clean → predictions and mentions, with the model that `models` names.

A batch is scored by one model from end to end; swaps happen between two batches. A model is prepared before it is
promoted, in a thread beside the stream (`prepare`), so that the swap takes no time; another may score a sample beside
the champion (`shadow`). The worker reads the whole of `models` before it takes work, and a partition whose last commit
was made at a later epoch than this worker knows waits until the worker has caught up: epochs never run backwards on a
partition.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import Any, Final, NamedTuple

import msgspec

from services.runtime import Context, now_ms
from services.score.device import take_one
from services.score.engine import Engine, open_engine
from services.score.http import ScoreServer
from services.score.outcome import events
from services.score.prepare import Preparer
from services.score.shadow import Shadow
from services.stream import metrics, topics
from services.stream.bus import Batch, Consumer, Marks, Reader, Record, TopicPartition, read_to_end
from services.stream.database import transaction
from services.stream.errors import Fatal, Misconfigured, Rejected, Transient
from services.stream.events import CleanText, ModelChange, Preparation, decode
from services.stream.loop import Answer, Hooks
from services.trainer import registry
from services.trainer.promotion import DETAIL

GROUP: Final = "score"
MAX_RECORDS: Final = 512
"""Of a backlog. Half as many cost a tenth of the rate: fewer texts are of like length. Twice as many gain nothing."""
EVERY_S: Final = 0.02

log = logging.getLogger(__name__)


class Current(NamedTuple):
    """What is in service: scored with together, swapped together."""

    engine: Engine
    version: str
    epoch: int


class _Refused(NamedTuple):
    """The newest champion that can't be served here, until a newer one can."""

    epoch: int
    model: str
    reason: str


def serve(context: Context) -> None:
    """Run a score worker until stopped: the stream and, beside it, requests over HTTP."""
    take_one(context.slot)
    with closing(Worker(context)) as worker:
        worker.start()
        with ScoreServer(worker, context.settings.host, context.settings.score_port) as server:
            context.address = server.address
            context.state = "running"
            hooks = Hooks(before=worker.follow, marks=worker.marks)
            loop = context.loop(GROUP, topics.CLEAN, max_records=MAX_RECORDS, every_s=EVERY_S, hooks=hooks)
            loop.transform(worker.step)


class Worker:
    """Holds the model in service and follows `models` and `preparations`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._bus = context.bus()
        self._reader: Reader | None = None
        self._wanted: ModelChange | None = None
        self._current: Current | None = None
        self._used: Current | None = None
        self._refused: _Refused | None = None
        self._preparer = Preparer(self._load, context.stop)
        self._heard: list[ModelChange] = []
        self._beside: ModelChange | None = None
        self._shadow = Shadow(self._load, context.bus, context.settings.shadow_share)
        self._consumer: Consumer | None = None

    def start(self) -> None:
        """Read `models` to its end and load the champion, so that the first text meets a warm model. One that can't be
        served leaves its predecessor in service, as it would have on a worker that was there when it came.

        Raises:
            Transient: no model was promoted yet, or its record is still on its way.
            Fatal: none of the champions so far can be served.
        """
        ends = self._bus.ends(topics.MODELS)
        waiting_since = now_ms() - 1000 * self._context.settings.prepare_s
        asked = self._bus.offsets_at(topics.PREPARATIONS, waiting_since)
        self._reader = self._bus.reader([topics.MODELS, topics.PREPARATIONS], asked)
        records = list(read_to_end(self._reader, ends))
        changes = self._hear(records)
        if not changes:
            raise Transient("no model has been promoted yet; `tickerloop migrate` registers the bundled one")
        for change in sorted(changes, key=lambda change: change.epoch, reverse=True):
            self._wanted = change
            self._swap()
            if self._current is not None:
                self._prepare(records)
                self._shadow.follow(self._beside)
                return
        raise Fatal(f"none of the champions so far can be served; the last: {self._refused}")

    def close(self) -> None:
        """End the shadow."""
        self._shadow.follow(None)

    @property
    def current(self) -> Current:
        """The model in service."""
        if self._current is None:
            raise Transient("no model is in service yet")
        return self._current

    def follow(self, consumer: Consumer) -> None:
        """Take up what `models` says, before each poll; while an owned partition is ahead, wait for it.

        Raises:
            Transient: a promoted model could not be fetched; it is tried again.
            Fatal: a partition came from a worker that serves a model which this one refused.
        """
        self._consumer = consumer
        self._read(0.0)
        ahead = max((_epoch(mark) for mark in consumer.owned().values()), default=0)
        if ahead > self.current.epoch:
            if self._refused is not None and ahead <= self._refused.epoch:
                raise Fatal(f"a partition is at epoch {ahead}, whose model is refused here: {self._refused}")
            self._read(0.5)

    def _read(self, timeout: float) -> None:
        if self._reader is None:
            return
        records = self._reader.poll(timeout)
        for change in self._hear(records):
            if change.epoch > max(self.current.epoch, self._wanted.epoch if self._wanted else 0):
                self._wanted = change
        self._shadow.follow(self._beside)
        self._prepare(records)
        self._swap()
        self._show()

    def _hear(self, records: Sequence[Record]) -> list[ModelChange]:
        """Take note of what `models` says; the changes of the champion among it."""
        changes = registry.changes(record for record in records if record.topic == topics.MODELS)
        if changes:
            self._heard += changes
            self._beside = registry.shadowing(self._heard)
        return [change for change in changes if change.action in registry.CHANGES]

    def _prepare(self, records: Sequence[Record]) -> None:
        for record in records:
            if record.topic == topics.PREPARATIONS:
                with suppress(Rejected):
                    self._preparer.ask(decode(Preparation, record.value).version, record.offset)

    def _swap(self) -> None:
        """Put the wanted model in service, or refuse it. What is neither, since it is being prepared still or a server
        is lost, stays wanted."""
        change = self._wanted
        if change is None or self._preparer.loads(change.version):
            return
        try:
            engine = self._preparer.take(change.version) or self._load(change.version)
        except (Rejected, Misconfigured) as error:
            metrics.SWAPS.labels("refused").inc()
            log.error("model %s of epoch %d is refused: %s", change.version, change.epoch, error)
            if self._refused is None or change.epoch > self._refused.epoch:
                self._refused = _Refused(change.epoch, change.version, str(error))
        else:
            self._current = Current(engine, change.version, change.epoch)
            if self._refused is not None and self._refused.epoch <= change.epoch:
                self._refused = None
            metrics.SWAPS.labels("done").inc()
            metrics.EPOCH.set(change.epoch)
            log.info("model %s is in service from epoch %d on", change.version, change.epoch)
        self._wanted = None
        self._show()

    def _show(self) -> None:
        """What `status` and whoever promotes see of this worker."""
        detail: dict[str, Any] = {}
        if self._current is not None:
            engine, version, epoch = self._current
            detail = {"model": version, "epoch": epoch, "device": engine.device}
        if self._refused is not None:
            detail["refused"] = self._refused._asdict()
        if self._preparer.answer is not None:
            detail[DETAIL] = msgspec.to_builtins(self._preparer.answer)
        if self._shadow.state is not None:
            detail["shadow"] = msgspec.to_builtins(self._shadow.state)
        self._context.detail = detail

    def _load(self, version: str) -> Engine:
        settings = self._context.settings
        with (
            closing(self._context.connect()) as connection,
            transaction(connection),
            connection.cursor() as cursor,
        ):
            folder = registry.fetch(cursor, version, settings.model_cache)
        return open_engine(
            folder,
            device=settings.device,
            threads=settings.threads,
            share=self._engine(),
            cache=settings.model_cache,
            long_texts=settings.long_texts,
        )

    def _engine(self) -> Engine | None:
        return self._current.engine if self._current else None

    def step(self, records: Sequence[Record]) -> Sequence[Answer]:
        """Score a batch: one prediction per text and one mention per ticker. The shadow is offered the same texts."""
        used = self._used = self.current
        answers: list[Answer] = []
        good: list[tuple[CleanText, Record]] = []
        for record in records:
            try:
                good.append((decode(CleanText, record.value), record))
                answers.append(())
            except Rejected as rejected:
                answers.append(rejected)
        texts = [text for text, _ in good]
        scored = used.engine.score([text.text for text in texts])
        scores = iter(zip(texts, scored, strict=True))
        self._shadow.offer([one for one, said in zip(good, scored, strict=True) if not isinstance(said, Rejected)])
        metrics.BATCH_TEXTS.observe(len(texts))
        metrics.SCORED.labels(used.version).inc(len(texts))
        scored_at = now_ms()
        languages = used.engine.card.languages
        return [
            answer if isinstance(answer, Rejected) else events(*next(scores), record, used, scored_at, languages)
            for record, answer in zip(records, answers, strict=True)
        ]

    def marks(self, batch: Batch) -> Marks:
        """The epoch this batch was scored at, stored with its positions.

        Raises:
            Transient: a partition of the batch was last committed at a later epoch; catch up and redo.
        """
        used = self._used or self.current
        places = {TopicPartition(record.topic, record.partition) for record in batch.records}
        owned = self._consumer.owned() if self._consumer else {}
        if any(_epoch(owned.get(place, "")) > used.epoch for place in places):
            raise Transient(f"a partition is ahead of epoch {used.epoch}")
        return {place: str(used.epoch) for place in places}


def _epoch(mark: str) -> int:
    return int(mark) if mark else 0
