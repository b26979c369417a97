"""Three of ten annotators are hostile. What is taught then, against believing everyone, on the same words."""

from __future__ import annotations

import pytest
from feedback.simulated import (
    Says,
    believing_everyone,
    flips,
    honest,
    knows_gold,
    labelled,
    looked,
    one_sided,
    patient,
    targets,
    taught,
)

HONEST = 7


def desk(attack: Says) -> dict[str, Says]:
    return {f"honest{n}": honest for n in range(HONEST)} | {f"hostile{n}": attack for n in range(10 - HONEST)}


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("attack", [flips, one_sided, patient, targets])
@pytest.mark.parametrize("knows", [False, True], ids=["", "knows gold"])
def test_what_is_taught_stays_right(attack: Says, knows: bool, seed: int) -> None:
    clean = labelled(desk(honest), seed)
    best = taught(clean, looked(clean.words)[0])
    words = labelled(desk(knows_gold(attack) if knows else attack), seed)
    judged, _ = looked(words.words)
    found, without = taught(words, judged), believing_everyone(words)
    assert found.right > best.right - 0.02, "by weight, of all that is taught"
    assert found.right > without.right or attack is targets
    assert found.on_target > best.on_target - 0.06
    assert found.weight > 0.6 * best.weight, "of the seven tenths that are honest"
