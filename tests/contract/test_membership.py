"""Partitions find another owner when theirs dies, hangs, is cut off or must share; and nothing counts twice for it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from kit import MemberProcess, effects, events, make_effects, once_in_order, pairs, publish, read, until


def settled(first: MemberProcess, second: MemberProcess) -> None:
    """Wait until two members share all partitions."""
    until(
        lambda: (
            bool(first.owned())
            and bool(second.owned())
            and len(first.owned() | second.owned()) == 4
            and not first.owned() & second.owned()
        ),
        "two owners",
        detail=lambda: f"{first.reports('owned')} {second.reports('owned')}\n{first.log()}\n{second.log()}",
    )


def owns_all(member: MemberProcess) -> None:
    until(lambda: len(member.owned()) == 4, f"slot {member.slot} to own all", detail=member.log)


@pytest.mark.parametrize("step", ["transform", "sink"])
def test_an_owner_dies_with_a_batch_in_hand(bus_kit: Any, step: str) -> None:
    bus = bus_kit.bus()
    make_effects(bus_kit)
    first, second = bus_kit.member(0, step=step, held=True), bus_kit.member(1, step=step)
    settled(first, second)
    publish(bus, events(bus_kit.source, range(200)))
    first.wait_for("holding")
    first.kill()
    owns_all(second)
    check(bus_kit, step, 200)


@pytest.mark.parametrize("step", ["transform", "sink"])
def test_an_owner_hangs_and_wakes_up_with_its_batch(bus_kit: Any, step: str) -> None:
    bus = bus_kit.bus()
    make_effects(bus_kit)
    first, second = bus_kit.member(0, step=step, held=True), bus_kit.member(1, step=step)
    settled(first, second)
    publish(bus, events(bus_kit.source, range(200)))
    first.wait_for("holding")
    first.freeze()
    owns_all(second)
    check(bus_kit, step, 200)  # the other has finished the batch
    first.hold.unlink()
    first.thaw()
    first.wait_for("released")
    publish(bus, events(bus_kit.source, range(200, 300)))
    check(bus_kit, step, 300)
    time.sleep(1.0)
    check(bus_kit, step, 300)


@pytest.mark.parametrize("longer", [False, True], ids=["for a moment", "past the session"])
@pytest.mark.parametrize("step", ["transform", "sink"])
def test_an_owner_loses_only_its_connection(bus_kit: Any, step: str, longer: bool) -> None:
    bus = bus_kit.bus()
    make_effects(bus_kit)
    first, second = bus_kit.member(0, step=step, held=True), bus_kit.member(1, step=step)
    settled(first, second)
    publish(bus, events(bus_kit.source, range(200)))
    first.wait_for("holding")
    first.cut()
    if longer:
        owns_all(second)
        check(bus_kit, step, 200)
    else:
        time.sleep(0.3)
    first.hold.unlink()
    first.wait_for("released")
    first.mend()
    check(bus_kit, step, 200)
    settled(first, second)  # it is back
    publish(bus, events(bus_kit.source, range(200, 300)))
    check(bus_kit, step, 300)
    assert "the step failed" not in first.log(), "a lost server was taken for a defect of the step"


def test_a_second_member_joins_and_gets_its_share_of_the_work(bus_kit: Any) -> None:
    bus = bus_kit.bus()
    make_effects(bus_kit)
    publish(bus, events(bus_kit.source, range(1_500), keys=64))
    first = bus_kit.member(0, step="sink", sleep=0.1, max_records=20)
    first.wait_for("committed", 3)
    owns_all(first)
    second = bus_kit.member(1, step="sink", sleep=0.1, max_records=20)
    settled(first, second)
    assert len(first.owned()) == len(second.owned()) == 2
    check(bus_kit, "sink", 1_500)
    per_slot = dict(bus_kit.rows("SELECT slot, count(*) FROM effect GROUP BY slot"))
    assert set(per_slot) == {0, 1}
    assert per_slot[1] > 100
    assert second.stop() == 0  # and leaves again
    owns_all(first)
    publish(bus, events(bus_kit.source, range(1_500, 1_520), keys=64))
    check(bus_kit, "sink", 1_520)


def test_of_two_processes_in_one_slot_one_stops_for_good(bus_kit: Any) -> None:
    bus = bus_kit.bus()
    make_effects(bus_kit)
    publish(bus, events(bus_kit.source, range(20)))
    first = bus_kit.member(0, step="sink")
    first.wait_for("committed")
    second = bus_kit.member(0, step="sink")
    until(
        lambda: first.process.poll() is not None or second.process.poll() is not None,
        "the end of one",
        detail=lambda: first.log() + second.log(),
    )
    gone, stays = (first, second) if first.process.poll() is not None else (second, first)
    assert gone.process.returncode == 3
    assert gone.reports("ended")[0]["error"] == "SlotTaken"
    assert "slot" in gone.reports("ended")[0]["detail"] or bus_kit.name == "kafka"
    publish(bus, events(bus_kit.source, range(20, 60)))
    check(bus_kit, "sink", 60)
    assert stays.process.poll() is None


@pytest.mark.parametrize("step", ["transform", "sink"])
def test_a_slow_step_keeps_its_partitions(bus_kit: Any, step: str) -> None:
    """A batch that takes longer than a session is done once, by the member that began it, though another is idle."""
    bus = bus_kit.bus()
    make_effects(bus_kit)
    slow = bus_kit.member(0, step=step, sleep=bus_kit.session_s * 1.9, max_records=1_000)
    idle = bus_kit.member(1, step=step)
    settled(slow, idle)
    places = sorted(slow.owned())
    publish(bus, [e._replace(partition=places[int(e.key[3:]) % 2]) for e in events(bus_kit.source, range(40))])
    check(bus_kit, step, 40)
    settled(slow, idle)
    assert sum(report["count"] for report in slow.reports("step")) == 40, "a batch was redone"
    assert idle.reports("step") == [], "another did it"


def test_who_leaves_is_not_waited_for(bus_kit: Any) -> None:
    """With so long a session, a successor gets the partitions in time only because the member said goodbye."""
    bus_kit.session_s = 3_600.0 if bus_kit.name == "embedded" else 24.0
    bus = bus_kit.bus()
    first, second = bus_kit.member(0), bus_kit.member(1)
    settled(first, second)
    assert first.stop() == 0
    until(lambda: len(second.owned()) == 4, "the rest", 20, second.log)
    publish(bus, events(bus_kit.source, range(40)))
    check(bus_kit, "transform", 40)
    third = bus_kit.member(0)
    settled(third, second)


def check(kit: Any, step: str, count: int) -> None:
    """All of 0…count−1 took effect once, in order per key."""
    if step == "transform":
        once_in_order(pairs(read(kit.bus(), kit.out, count)), count)
    else:
        until(lambda: len(effects(kit)) >= count, f"{count} rows", detail=lambda: f"{len(effects(kit))} rows")
        once_in_order(effects(kit), count)
