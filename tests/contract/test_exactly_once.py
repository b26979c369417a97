"""Exactly once, in order per key, while members are killed, stopped and cut off at random."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from kit import SEED, MemberProcess, effects, events, make_effects, once_in_order, pairs, publish, read, until

COUNT = 1_500


class Group:
    """Three slots whose processes a supervisor starts again when they end."""

    def __init__(self, kit: Any, **options: Any) -> None:
        self._kit, self._options = kit, options
        self.members: list[MemberProcess] = [self._start(slot) for slot in range(3)]

    def _start(self, slot: int) -> MemberProcess:
        started: MemberProcess = self._kit.member(slot, **self._options)
        return started

    def kill(self, slot: int) -> None:
        self.members[slot].kill()
        self.members[slot] = self._start(slot)

    def revive(self) -> None:
        """Start again whatever ended by itself; a fatal error other than a fenced slot is a failure."""
        for slot, member in enumerate(self.members):
            if member.process.poll() is not None:
                ended = member.reports("ended")
                assert ended and ended[-1]["error"] in {"SlotTaken", None}, f"{ended} {member.log()}"
                self.members[slot] = self._start(slot)

    def busy(self) -> None:
        """Wait until some member works."""
        until(lambda: any(member.reports("committed") for member in self.members), "a commit")


def finished(kit: Any, group: Group, count: int) -> None:
    """Wait until the group stands at the end of its source."""
    bus = kit.bus()

    def done() -> bool:
        group.revive()
        committed = bus.committed(kit.group, kit.source)
        return sum(committed.values()) > 0 and all(
            committed.get(place, 0) >= last for place, last in kit.last_offsets.items()
        )

    until(done, f"{count} events consumed", 120, lambda: "\n".join(member.log() for member in group.members))


def publish_all(kit: Any, count: int) -> None:
    bus = kit.bus()
    kit.last_offsets = {}
    for start in range(0, count, 50):
        for place, offset in publish(bus, events(kit.source, range(start, min(count, start + 50)), keys=40)):
            kit.last_offsets[place] = max(kit.last_offsets.get(place, 0), offset + 1)


@pytest.mark.parametrize("step", ["transform", "both"])
def test_through_kill_9(bus_kit: Any, step: str) -> None:
    """`both` writes a row and publishes an event for each record: neither may double, neither may miss."""
    chance = random.Random(f"{SEED}{step}")
    make_effects(bus_kit)
    publish_all(bus_kit, COUNT)
    with bus_kit.relay():
        group = Group(bus_kit, step=step, sleep=0.03, max_records=15)
        group.busy()
        for _ in range(6):
            time.sleep(chance.uniform(0.1, 0.7))
            slot = chance.randrange(3)
            group.members[slot].wait_for("started")
            group.kill(slot)
        finished(bus_kit, group, COUNT)
        once_in_order(pairs(read(bus_kit.bus(), bus_kit.out, COUNT)), COUNT)
        if step == "both":
            once_in_order(effects(bus_kit), COUNT)
        assert [member.stop() for member in group.members] == [0, 0, 0]


def test_through_anything_at_random(bus_kit: Any) -> None:
    """Kill, freeze past the session, cut the connection for a while, ask to stop: in any order."""
    chance = random.Random(SEED + 1)
    make_effects(bus_kit)
    publish_all(bus_kit, COUNT)
    with bus_kit.relay():
        group = Group(bus_kit, step="both", sleep=0.05, max_records=10)
        group.busy()
        for act in chance.sample(["kill", "freeze", "cut", "stop", "kill", "cut"], 6):
            slot = chance.randrange(3)
            member = group.members[slot]
            if act == "kill":
                group.kill(slot)
            elif act == "freeze":
                member.freeze()
                time.sleep(bus_kit.session_s + chance.uniform(0.0, 1.5))
                member.thaw()
            elif act == "cut":
                member.cut()
                time.sleep(chance.uniform(0.1, 1.5))
                member.mend()
            else:
                member.wait_for("started")
                member.stop()
            time.sleep(chance.uniform(0.0, 0.5))
            group.revive()
        finished(bus_kit, group, COUNT)
        once_in_order(effects(bus_kit), COUNT)
        once_in_order(pairs(read(bus_kit.bus(), bus_kit.out, COUNT)), COUNT)
