"""The border: stories told on both sides leave one of them, and every leak that is planted is found and refuses."""

from __future__ import annotations

from typing import Any

import pytest
from trainer.dataset_kit import FREE, HELD, dataset, labelled, unlabelled, words

from services.trainer import leaks, splits
from services.trainer.anchors import anchors
from services.trainer.dataset import Dataset
from services.trainer.splits import COPY, LEARNED, RETOLD, Learned, apart

AT = 1_700_000_000_000
STORY = "Copper rallies to a ten-month high as the strike at Escondida drags on"
COPIED = "Copper rallies to ten-month high as strike at Escondida drags on!"
TOLD = "Copper at ten-month high as strike drags on at the Escondida mine in Chile"


def sides(**parts: Any) -> Dataset:
    """Two texts that teach and two that measure, each of its own, beside what is planted."""
    learn = [labelled(FREE[0]), labelled(FREE[1])]
    measure = [labelled(HELD[0]), labelled(HELD[1])]
    added = {"learn": learn + parts.pop("learn", []), "measure": measure + parts.pop("measure", [])}
    return dataset(**added, **parts)


def test_what_is_told_on_one_side_only_stays() -> None:
    data = sides(replay=[labelled("")], live=[unlabelled(FREE[2])], anchor=[labelled("")])
    assert apart(data, [Learned(words(10_000), 0)]) == data


@pytest.mark.parametrize("side", ["learn", "replay", "live"])
@pytest.mark.parametrize("measuring", ["measure", "anchor"])
def test_a_copy_of_what_measures_does_not_teach(side: str, measuring: str) -> None:
    made = unlabelled if side == "live" else labelled
    planted = made(FREE[5], text=COPIED)
    data = sides(**{side: [planted]}, **{measuring: [labelled(HELD[5], text=STORY)]})
    found = apart(data, [])
    assert planted not in getattr(found, side)
    assert found.left_out == {COPY: 1}
    assert len(found.learn) == 2 and getattr(found, measuring) == getattr(data, measuring)


def test_another_telling_within_the_embargo_does_not_teach() -> None:
    story = labelled(HELD[5], text=STORY, at=AT)
    near, far = (labelled(FREE[n], text=TOLD, at=AT + n * splits.copies.EMBARGO_MS) for n in (1, 2))
    found = apart(sides(measure=[story], learn=[near, far]), [])
    assert near not in found.learn and far in found.learn
    assert found.left_out == {RETOLD: 1}


def test_what_an_earlier_run_has_learned_does_not_measure_and_may_teach_on() -> None:
    story, copied = labelled(HELD[5], text=STORY), labelled(FREE[5], text=COPIED)
    found = apart(sides(measure=[story], learn=[copied]), [Learned(COPIED, 0)])
    assert story not in found.measure and copied in found.learn
    assert found.left_out == {LEARNED: 1}


def test_a_clean_dataset_has_no_leak() -> None:
    data = sides(replay=[labelled("", example_id="base-1")], live=[unlabelled(FREE[2])])
    assert leaks.find(data, {FREE[0]}) == []


ANCHOR = next(anchor for anchor in anchors() if not anchor.replayed)


@pytest.mark.parametrize(
    ("kind", "parts", "ids"),
    [
        ("held out, yet taught", {"learn": [labelled(HELD[7])]}, [f"e-{HELD[7]}"]),
        ("held out, yet taught", {"live": [unlabelled(HELD[7])]}, [HELD[7]]),
        (
            "the same text teaches and measures",
            {"learn": [labelled(FREE[7], text=COPIED)], "measure": [labelled(HELD[7], text=STORY)]},
            [f"e-{FREE[7]}"],
        ),
        (
            "the same text teaches and measures",
            {"replay": [labelled("", example_id="base-1", text=STORY)], "anchor": [labelled("", text=STORY)]},
            ["base-1"],
        ),
        (
            "the same text teaches and measures",
            {"live": [unlabelled(FREE[7])], "measure": [labelled(FREE[7])]},
            [FREE[7]],
        ),
        (
            "the same text teaches and measures",
            {"learn": [labelled(FREE[7], text_id="one")], "measure": [labelled(FREE[7], text_id="other")]},
            [f"e-{FREE[7]}"],
        ),
        (
            "an anchor that measures, yet is taught",
            {"replay": [labelled("", example_id=ANCHOR.id)]},
            [ANCHOR.id],
        ),
        ("measures, yet an earlier run has learned it", {"measure": [labelled(HELD[9])]}, [f"e-{HELD[9]}"]),
    ],
)
def test_each_leak_is_found_and_named(kind: str, parts: dict[str, Any], ids: list[str]) -> None:
    assert leaks.find(sides(**parts), {HELD[9]}) == [leaks.Leak(kind, ids)]


def test_a_holdout_never_shrinks_when_texts_and_labels_come() -> None:
    few = [labelled(name) for name in HELD[:5]]
    more = [*few, *(labelled(name) for name in HELD[5:20])]
    learn = [labelled(name) for name in FREE[:20]]
    before, after = (apart(dataset(learn=learn, measure=measure), []).measure for measure in (few, more))
    assert set(before) < set(after)
