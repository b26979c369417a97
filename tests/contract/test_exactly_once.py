"""Exactly once, in order per key, while members are killed, stopped and cut off at random."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from kit import SEED, MemberProcess, effects, events, make_effects, once_in_order, pairs, publish, read, until

ACTS = 6
SHARE = 250
COUNT = ACTS * SHARE


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

    def owner(self, chance: random.Random) -> int:
        """A slot that owns partitions, once events are left for it to read."""
        owners: list[int] = []

        def found() -> bool:
            self.revive()
            committed = self._kit.bus().committed(self._kit.group, self._kit.source)
            behind = {place.partition for place, end in self._kit.last_offsets.items() if committed.get(place, 0) < end}
            owners[:] = [slot for slot, member in enumerate(self.members) if member.owned() & behind]
            return bool(owners)

        until(found, "an owner with work left", detail=lambda: "\n".join(member.log() for member in self.members))
        return chance.choice(owners)


def finished(kit: Any, group: Group) -> None:
    """Wait until the group stands at the end of its source."""
    bus = kit.bus()

    def done() -> bool:
        group.revive()
        committed = bus.committed(kit.group, kit.source)
        return sum(committed.values()) > 0 and all(
            committed.get(place, 0) >= last for place, last in kit.last_offsets.items()
        )

    until(done, f"{COUNT} events consumed", 120, lambda: "\n".join(member.log() for member in group.members))


def publish_next(kit: Any) -> None:
    """The next share of the events: enough for a second of work, so that each act below meets some."""
    bus = kit.bus()
    first = kit.published
    kit.published = first + SHARE
    for start in range(first, first + SHARE, 50):
        for place, offset in publish(bus, events(kit.source, range(start, min(first + SHARE, start + 50)), keys=40)):
            kit.last_offsets[place] = max(kit.last_offsets.get(place, 0), offset + 1)


@pytest.mark.parametrize("step", ["transform", "both"])
def test_through_kill_9(bus_kit: Any, step: str) -> None:
    """`both` writes a row and publishes an event for each record: neither may double, neither may miss."""
    chance = random.Random(f"{SEED}{step}")
    make_effects(bus_kit)
    with bus_kit.relay():
        group = Group(bus_kit, step=step, sleep=0.1, max_records=10)
        for _ in range(ACTS):
            publish_next(bus_kit)
            time.sleep(chance.uniform(0.0, 0.3))
            group.kill(group.owner(chance))
        finished(bus_kit, group)
        once_in_order(pairs(read(bus_kit.bus(), bus_kit.out, COUNT)), COUNT)
        if step == "both":
            once_in_order(effects(bus_kit), COUNT)
        assert [member.stop() for member in group.members] == [0, 0, 0]


def test_through_anything_at_random(bus_kit: Any) -> None:
    """Kill, freeze past the session, cut the connection for a while, ask to stop: in any order."""
    chance = random.Random(SEED + 1)
    make_effects(bus_kit)
    with bus_kit.relay():
        group = Group(bus_kit, step="both", sleep=0.1, max_records=10)
        for act in chance.sample(["kill", "freeze", "cut", "stop", "kill", "cut"], ACTS):
            publish_next(bus_kit)
            time.sleep(chance.uniform(0.0, 0.3))
            slot = group.owner(chance)
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
                member.stop()
            group.revive()
        finished(bus_kit, group)
        once_in_order(effects(bus_kit), COUNT)
        once_in_order(pairs(read(bus_kit.bus(), bus_kit.out, COUNT)), COUNT)
