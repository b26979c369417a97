"""The pure window module: the same counts, whatever the batches, crashes and redone prefixes."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from monitor_kit import BASE, mention

from services.monitor.windows import WINDOW_MS, Folded, Idle, Progress, Rules, Sighting, Tally, fold
from services.stream.events import LAST_MS

RULES = Rules()
MINUTE = WINDOW_MS
NOW = BASE + 1_000 * MINUTE

sightings = st.lists(
    st.tuples(
        st.sampled_from("ABC"),
        st.integers(0, 10 * MINUTE),
        st.integers(-1_000_000, 1_000_000),
        st.integers(1, 3),
        st.booleans(),
    ),
    max_size=60,
).map(
    lambda drawn: [
        Sighting(10 + sum(d[3] for d in drawn[: i + 1]), NOW, None if bad else mention(ticker, BASE + at, micros / 1e6))
        for i, (ticker, at, micros, _, bad) in enumerate(drawn)
    ]
)


def merged(parts: Sequence[Folded]) -> tuple[dict[object, Tally], dict[object, int]]:
    counted: dict[object, Tally] = {}
    late: dict[object, int] = {}
    for part in parts:
        for window, tally in part.counted.items():
            counted[window] = counted.get(window, Tally()).plus(tally)
        for window, n in part.late.items():
            late[window] = late.get(window, 0) + n
    return counted, late


@given(sightings, st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=20))
def test_any_batching_and_any_redo_count_the_same(log: list[Sighting], reads: list[tuple[int, int]]) -> None:
    whole = fold(Progress(), log, RULES)
    parts = []
    progress, upto = Progress(), 0
    for back, length in [*reads, (0, len(log))]:
        begin = max(0, upto - back)
        parts.append(fold(progress, log[begin : max(upto, begin + length)], RULES))
        progress = parts[-1].progress
        upto = max(upto, min(len(log), begin + length))
    assert progress == whole.progress
    assert merged(parts) == merged([whole])


@given(st.lists(st.tuples(st.sampled_from([0, 1, BASE, LAST_MS]), st.sampled_from([0, 1, BASE, LAST_MS])), max_size=9))
def test_absurd_times_are_counted_like_any_other(times: list[tuple[int, int]]) -> None:
    log = [Sighting(n, arrival, mention("A", at, 0.5)) for n, (arrival, at) in enumerate(times)]
    folded = fold(Progress(), log, RULES)
    assert sum(t.n for t in folded.counted.values()) + sum(folded.late.values()) == len(log)
    assert 0 <= folded.progress.watermark <= LAST_MS
    assert all(0 <= window.start <= LAST_MS for window in (*folded.counted, *folded.late))


@given(sightings)
def test_every_mention_is_counted_once_or_late(log: list[Sighting]) -> None:
    folded = fold(Progress(), log, RULES)
    n = sum(tally.n for tally in folded.counted.values()) + sum(folded.late.values())
    assert n == sum(sighting.mention is not None for sighting in log)
    for tally in folded.counted.values():
        assert tally.n == tally.negative + tally.neutral + tally.positive


@given(sightings)
def test_a_closed_window_never_changes(log: list[Sighting]) -> None:
    progress = Progress()
    for sighting in log:
        before = progress
        folded = fold(progress, [sighting], RULES)
        progress = folded.progress
        assert all(window.start > RULES.closed_upto(before.watermark) for window in folded.counted)
        assert progress.watermark >= before.watermark


@given(st.permutations(range(8)), st.lists(st.floats(-1, 1), min_size=8, max_size=8))
def test_sums_do_not_depend_on_the_order(order: list[int], sentiments: list[float]) -> None:
    log = [Sighting(i, NOW, mention("A", BASE, sentiments[j])) for i, j in enumerate(order)]
    assert list(fold(Progress(), log, RULES).counted.values()) == list(
        fold(
            Progress(), [Sighting(i, NOW, mention("A", BASE, s)) for i, s in enumerate(sentiments)], RULES
        ).counted.values()
    )


def test_the_last_moment_in_time_and_the_first_late_one() -> None:
    last = BASE + MINUTE + RULES.lateness_ms
    in_time = fold(Progress(), [Sighting(0, NOW, mention("A", last - 1)), Sighting(1, NOW, mention("B", BASE))], RULES)
    assert ("B", BASE) in in_time.counted
    late = fold(Progress(), [Sighting(0, NOW, mention("A", last)), Sighting(1, NOW, mention("B", BASE))], RULES)
    assert late.late == {("B", BASE): 1}
    assert ("B", BASE) not in late.counted


def test_a_time_ahead_of_its_arrival_is_clamped() -> None:
    folded = fold(Progress(), [Sighting(0, BASE, mention("A", BASE + 60 * MINUTE))], RULES)
    assert list(folded.counted) == [("A", BASE + 5 * MINUTE)]


def test_a_fast_clock_makes_nobody_else_late() -> None:
    log = [Sighting(0, BASE, mention("A", BASE + 5 * MINUTE)), Sighting(1, BASE, mention("B", BASE))]
    folded = fold(Progress(), log, RULES)
    assert folded.progress.watermark == BASE
    assert folded.late == {}


def test_a_rejected_record_moves_the_offset_only() -> None:
    assert fold(Progress(3, BASE), [Sighting(7, NOW, None)], RULES) == (Progress(7, BASE), {}, {})


def test_only_silent_partitions_are_due_and_once_in_a_while() -> None:
    idle = Idle(Rules(idle_ms=100))
    assert idle.due([0, 1], 1_000) == []
    idle.moved([1], 1_050)
    assert idle.due([0, 1], 1_100) == [0]
    assert idle.due([0, 1], 1_150) == [1]
    assert idle.due([1, 2], 1_200) == []
    assert idle.due([1, 2], 1_300) == [1, 2]
    assert idle.due([0], 1_400) == []
