"""Random operations on the embedded log beside a model in memory: what the log says must be what the model says.

Members live in this process, so that each operation is one call and thousands fit: a kill is a connection that is gone,
an eviction a backend ended by another. Real processes are mistreated in `test_exactly_once`.
"""

from __future__ import annotations

import contextlib
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from kit import SEED, EmbeddedKit, read, retried

from services.stream import membership
from services.stream.bus import Batch, Outgoing, TopicPartition
from services.stream.errors import Fenced, SlotTaken, Transient

STEPS = 1_200


class Model:
    """What the log must hold: per partition the records published, the group's position and its mark."""

    def __init__(self) -> None:
        self.log: dict[TopicPartition, list[bytes]] = defaultdict(list)
        self.position: dict[TopicPartition, int] = defaultdict(int)
        self.mark: dict[TopicPartition, str] = {}
        self.out: list[bytes] = []

    def takes(self, batch: Batch) -> dict[TopicPartition, int]:
        """Check that a batch that was allowed to commit is the next of each of its partitions; its ends."""
        upto = dict(self.position)
        touched = {}
        for record in batch.records:
            place = TopicPartition(record.topic, record.partition)
            assert record.offset == upto.get(place, 0), f"{place}: committed {record.offset} at {upto.get(place, 0)}"
            assert record.value == self.log[place][record.offset]
            upto[place] = touched[place] = record.offset + 1
        return touched


class Run:
    """Slots 0–3, each with a consumer or none, and the batches that they hold, which may be void by now."""

    def __init__(self, kit: EmbeddedKit, seed: int) -> None:
        self.kit, self.chance, self.model = kit, random.Random(seed), Model()
        self.bus = kit.bus()
        self.consumers: dict[int, Any] = {}
        self.held: dict[int, list[Batch]] = defaultdict(list)
        self.number = 0
        self.commits = 0

    def step(self) -> None:
        acts = [self.publish] * 4 + [self.poll] * 14 + [self.commit] * 12
        acts += [self.join, self.leave, self.crash, self.evict, self.steal, self.seek, self.abort]
        self.chance.choice(acts)()

    def slot(self) -> int:
        return self.chance.randrange(4)

    def publish(self) -> None:
        values = [b"%d" % (self.number + i) for i in range(self.chance.randrange(1, 12))]
        self.number += len(values)
        places = [self.chance.randrange(4) for _ in values]
        sent = [Outgoing(self.kit.source, b"k", v, partition=p) for v, p in zip(values, places, strict=True)]
        for event, (place, offset) in zip(sent, self.bus.publish(sent), strict=True):
            assert offset == len(self.model.log[place])
            self.model.log[place].append(event.value)

    def join(self) -> None:
        slot = self.slot()
        if slot not in self.consumers:
            size = self.chance.choice([1, 3, 20])
            self.consumers[slot] = self.kit.bus().consumer(self.kit.group, [self.kit.source], slot, size)

    def poll(self) -> None:
        slot = self.slot()
        if slot not in self.consumers:
            self.join()
            return
        try:
            batch = self.consumers[slot].poll(0.0)
        except Transient:
            return
        owned = self.consumers[slot].owned()
        if batch is not None:
            assert {TopicPartition(r.topic, r.partition) for r in batch.records} <= set(owned)
            self.held[slot].append(batch)

    def commit(self) -> None:
        """Any batch that a slot ever held: the log must refuse what is void."""
        slot = self.slot()
        if slot not in self.consumers or not self.held[slot]:
            return
        index = -1 if self.chance.random() < 0.8 else self.chance.randrange(len(self.held[slot]))
        batch = self.held[slot].pop(index)
        values = [b"from " + record.value + b" %d" % self.commits for record in batch.records]
        marks = dict.fromkeys({TopicPartition(r.topic, r.partition) for r in batch.records}, f"m{self.commits}")
        try:
            self.consumers[slot].transform(batch, [Outgoing(self.kit.out, b"k", v) for v in values], marks)
        except Transient:
            return
        self.model.position |= self.model.takes(batch)
        self.model.mark |= marks
        self.model.out += values
        self.commits += 1
        assert {p: m for p, m in self.consumers[slot].owned().items() if p in marks} == marks

    def abort(self) -> None:
        slot = self.slot()
        if slot in self.consumers and self.held[slot]:
            batch = self.held[slot][-1]
            with contextlib.suppress(ZeroDivisionError, Fenced, Transient):
                self.consumers[slot].sink(batch, lambda _: 1 // 0)
            self.consumers[slot].rewind(batch)

    def leave(self) -> None:
        slot = self.slot()
        if slot in self.consumers:
            self.consumers.pop(slot).close()

    def crash(self) -> None:
        """The process is gone without a word: connections closed, row left behind; its batches die with it."""
        slot = self.slot()
        consumer = self.consumers.pop(slot, None)
        if consumer is not None:
            self.held[slot].clear()
            if (member := consumer._member) is not None:
                member._stop.set()
                member.connection.close()

    def evict(self) -> None:
        """What another does to a silent member, which then wakes up with its batches."""
        self._end("DELETE FROM log.member WHERE grp = %s AND slot = %s RETURNING work_pid")

    def steal(self) -> None:
        """Its connection alone is lost."""
        self._end("SELECT work_pid FROM log.member WHERE grp = %s AND slot = %s")

    def _end(self, query: str) -> None:
        with contextlib.closing(self.kit.connect()) as connection, connection, connection.cursor() as cursor:
            cursor.execute(query, (self.kit.group, self.slot()))
            for (pid,) in cursor.fetchall():
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE pid = %s AND datname = current_database() AND pid <> pg_backend_pid()",
                    (pid,),
                )

    def seek(self) -> None:
        if self.chance.random() < 0.7:
            return
        place = TopicPartition(self.kit.source, self.chance.randrange(4))
        upto = self.chance.randrange(len(self.model.log[place]) + 1)
        self.bus.seek(self.kit.group, {place: upto})
        self.model.position[place] = upto

    def finish(self) -> None:
        """Everyone leaves but one, who must be given exactly the rest, once."""
        for consumer in self.consumers.values():
            consumer.close()
        last = self.kit.bus().consumer(self.kit.group, [self.kit.source], 9)
        while any(self.model.position[place] < len(log) for place, log in self.model.log.items()):
            batch = retried(lambda: last.poll(0.5))
            if batch is not None:
                self.model.position |= self.model.takes(batch)
                last.transform(batch, [])
        marks = {place: mark for place, mark in last.owned().items() if mark}
        assert marks == self.model.mark
        last.close()
        committed = self.bus.committed(self.kit.group, self.kit.source)
        assert {p: o for p, o in committed.items() if o} == {p: o for p, o in self.model.position.items() if o}
        assert [r.value for r in read(self.bus, self.kit.out, len(self.model.out))] == self.model.out


@pytest.mark.parametrize("seed", range(SEED, SEED + 4))
def test_the_log_does_what_the_model_does(
    database: str, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("SHARE_OUT_EVERY_S", 0.0), ("SESSION_TIMEOUT_S", 1.0), ("BEAT_S", 0.2)):
        monkeypatch.setattr(membership, name, seconds)  # as much moving about as there is time for
    kit = EmbeddedKit(tmp_path, database)
    kit.bus().create_topics()
    run = Run(kit, seed)
    for _ in range(STEPS):
        with contextlib.suppress(SlotTaken):
            run.step()
    assert run.commits > 20, "too few to mean anything"
    run.finish()
    kit.close()
