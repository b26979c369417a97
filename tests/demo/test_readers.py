"""The demo's simulated readers: whom they never touch, what they look at, and in which order texts come."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from services.demo import readers
from services.demo.readers import Labelled
from services.stream.events import in_holdout

KNOWN = readers.labels()


class Heard:
    """A gateway that keeps what readers say."""

    def __init__(self) -> None:
        self.words: list[tuple[str, str, bool]] = []

    def feedback(self, prediction: Mapping[str, Any], label: str, annotator: str, sampled: bool) -> None:
        assert annotator in (*readers.READERS, readers.HOSTILE)
        self.words.append((prediction["external_id"], label, sampled))


def predictions(label: str) -> list[dict[str, Any]]:
    return [{"external_id": i, "cluster": f"cluster-{known.story}", "label": label} for i, known in KNOWN.items()]


@pytest.mark.parametrize("seed", [0, 7])
def test_what_is_set_aside_is_never_read_nor_is_a_copy_of_it(seed: int) -> None:
    aside = readers.set_aside(KNOWN, seed)
    labelled = {known.story for known in KNOWN.values() if known.label}
    assert aside < labelled and len(aside) == int(readers.SET_ASIDE * len(labelled))
    heard = Heard()
    corrections, confirmations = readers.read(heard, predictions("neutral"), KNOWN, aside, seed)  # type: ignore[arg-type]
    assert corrections + confirmations == len(heard.words) > 500
    assert not aside & {KNOWN[i].story for i, _, _ in heard.words}
    assert aside != readers.set_aside(KNOWN, seed + 1)


def test_readers_review_the_whole_random_share_and_elsewhere_only_mistakes() -> None:
    heard = Heard()
    readers.read(heard, predictions("neutral"), KNOWN, frozenset(), 0)  # type: ignore[arg-type]
    sampled = {i for i, _, sampled in heard.words if sampled}
    assert sampled == {i for i, k in KNOWN.items() if k.label and in_holdout(f"cluster-{k.story}")}
    chosen = [(i, label) for i, label, sampled in heard.words if not sampled]
    assert all(label != "neutral" for _, label in chosen)
    slips = sum(label != KNOWN[i].label for i, label, _ in heard.words)
    assert 0 < slips < 0.1 * len(heard.words), "people slip, now and then"


def test_the_hostile_one_is_always_wrong_and_touches_nothing_that_measures() -> None:
    aside = readers.set_aside(KNOWN, 0)
    heard = Heard()
    assert readers.lie(heard, predictions("neutral"), KNOWN, aside, 0) == len(heard.words) == readers.LIES  # type: ignore[arg-type]
    for i, label, sampled in heard.words:
        assert label != KNOWN[i].label and not sampled and KNOWN[i].story not in aside
        assert not in_holdout(f"cluster-{KNOWN[i].story}")


def test_the_stream_is_whole_and_late_stories_come_after_with_their_copies() -> None:
    known = next(k for k in KNOWN.values() if k.copy_of)
    first, after = readers.raw_lines(frozenset({known.story}))
    lines = (first + after).rstrip("\n").split("\n")  # some texts hold other line breaks
    assert Counter(lines) == Counter(line for _, line in readers.stream())
    late = {json.loads(line)["id"] for line in after.rstrip("\n").split("\n")}
    assert late == {k.id for k in KNOWN.values() if k.story == known.story} and len(late) > 1


def test_labels_lie_apart_line_by_line() -> None:
    for label, line in readers.stream():
        if label.expect != "dead":
            text = json.loads(line)
            assert text["id"] == label.id and "label" not in text


def test_the_account_is_known_beforehand() -> None:
    def label(number: int, expect: str) -> Labelled:
        return Labelled(str(number), "energy", "news", expect)

    ends = ("scored", "scored", "copy", "rejected:length", "rejected:empty", "dead")
    known = {str(number): label(number, expect) for number, expect in enumerate(ends)}
    assert readers.expected(known) == {"taken": 6, "scored": 2, "rejected": 2, "duplicate": 1, "dead": 1}
    assert readers.expected(KNOWN)["dead"] >= 5
