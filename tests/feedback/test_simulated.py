"""Three of ten annotators are hostile. What is taught then, against believing everyone, on the same words."""

from __future__ import annotations

from functools import cache

import pytest
from feedback.simulated import Taught, believing_everyone, labels, looked, taught

from ops.bench.learning.desk import Says, desk, flips, honest, knows_gold, one_sided, patient, targets


@cache
def clean(seed: int) -> Taught:
    """The same desk with ten honest readers."""
    words = labels(desk(honest), seed)
    return taught(words, looked(words.words)[0])


@pytest.mark.parametrize("seed", [1, 4])
@pytest.mark.parametrize("attack", [flips, one_sided, patient, targets])
@pytest.mark.parametrize("knows", [False, True], ids=["", "knows gold"])
def test_what_is_taught_stays_right(attack: Says, knows: bool, seed: int) -> None:
    best = clean(seed)
    words = labels(desk(knows_gold(attack) if knows else attack), seed)
    judged, _ = looked(words.words)
    found, without = taught(words, judged), believing_everyone(words)
    assert found.right > best.right - 0.02, "by weight, of all that is taught"
    assert found.right > without.right + 0.02
    assert found.on_target > best.on_target - 0.1
    assert found.weight > 0.65 * best.weight, "of the seven tenths that are honest"


@pytest.mark.parametrize("attack", [flips, patient, targets])
def test_the_hostile_end_in_quarantine_and_the_honest_stay(attack: Says) -> None:
    judged, findings = looked(labels(desk(knows_gold(attack)), 2).words)
    states = {annotator.name: annotator.state for annotator in judged.annotators}
    assert {states[f"honest{n}"] for n in range(7)} == {"qualified"}
    reason = "ticker" if attack is targets else "turned"
    held = {finding.annotator for finding in findings if finding.reason == reason}
    assert {name for name in states if name.startswith("hostile")} <= held
