"""The gate's every outcome, at its edges."""

from __future__ import annotations

from itertools import product
from math import comb

import msgspec
import numpy as np
import pytest
from scipy.stats import multinomial

from services.trainer import design, gate
from services.trainer.gate import Evidence, Pair, Verdict


def answers(n: int, right: int, first: int = 0) -> np.ndarray:
    """n answers of which `right` in a row are right, from `first` on."""
    found = np.zeros(n, dtype=bool)
    found[first : first + right] = True
    return found


STEADY = Pair(answers(100, 80), answers(100, 80))
BETTER = Pair(answers(400, 200), answers(400, 240))


def judge(champion: np.ndarray, challenger: np.ndarray, look: int = 1) -> Verdict:
    return gate.judge(Evidence(Pair(champion, challenger), STEADY), look)


def test_a_challenger_that_wins_beyond_chance_is_promoted_with_its_numbers() -> None:
    verdict = judge(answers(100, 50), answers(100, 60))
    assert verdict.promote
    assert (verdict.gained, verdict.lost) == (10, 0)
    assert verdict.p_value == pytest.approx(0.5**10)
    assert (verdict.champion.rate, verdict.challenger.rate) == (0.5, 0.6)
    assert verdict.reason == "better: +10 −0 of 100, p = 0.00098, α = 0.0077 at look 1"


@pytest.mark.parametrize(("look", "promoted"), [(1, True), (3, True), (4, False)])
def test_later_looks_at_the_same_holdout_ask_for_more(look: int, promoted: bool) -> None:
    assert judge(answers(100, 50), answers(100, 60), look).promote is promoted


def test_few_labels_without_a_rejection_are_not_enough_evidence() -> None:
    verdict = judge(answers(100, 50), answers(100, 54))
    assert not verdict.promote
    assert verdict.needed == design.needed(0.10, design.alpha_of(1)) > 1_000
    assert verdict.reason.startswith(f"not enough evidence: 100 held-out labels of {verdict.needed}; +4 −0 of 100")
    assert verdict.power < 0.1


def test_enough_labels_without_a_rejection_say_it_is_not_better() -> None:
    n = design.needed(0.10, design.alpha_of(1))
    lost = n // 20
    verdict = judge(answers(n, n // 2), answers(n, n // 2, first=lost))
    assert (verdict.gained, verdict.lost, verdict.needed) == (lost, lost, n)
    assert not verdict.promote and verdict.reason.startswith(f"not shown to be better: +{lost} −{lost} of {n}")
    assert verdict.power >= design.POWER


def test_wins_are_weighed_against_losses_on_the_same_texts() -> None:
    verdict = judge(answers(100, 50), answers(100, 55, first=45))
    assert (verdict.gained, verdict.lost) == (50, 45)
    assert not verdict.promote and "+50 −45" in verdict.reason


@pytest.mark.parametrize(("held_out", "promoted"), [(0, False), (29, False), (30, True)])
def test_too_few_held_out_labels_spend_no_look(held_out: int, promoted: bool) -> None:
    verdict = judge(answers(held_out, 0), answers(held_out, held_out), look=2)
    assert verdict.promote is promoted and verdict.look == (2 if promoted else 0)
    assert promoted or verdict.reason.startswith(f"not enough evidence: {held_out} held-out labels of ")


def test_without_any_held_out_label_there_is_a_verdict_all_the_same() -> None:
    verdict = judge(answers(0, 0), answers(0, 0))
    assert (verdict.champion.low, verdict.champion.high) == (0.0, 1.0)
    assert (verdict.p_value, verdict.power, verdict.slices) == (1.0, 0.0, verdict.slices)


@pytest.mark.parametrize(("forgotten", "vetoed"), [(4, False), (5, True)])
def test_a_better_one_that_forgets_is_vetoed(forgotten: int, vetoed: bool) -> None:
    anchor = Pair(answers(100, 80), answers(100, 80 - forgotten))
    verdict = gate.judge(Evidence(BETTER, anchor))
    assert verdict.promote is not vetoed
    assert not vetoed or verdict.reason.startswith("vetoed: forgets: 80.0% → 75.0% on the anchor set; overall +40 −0")


@pytest.mark.parametrize(("lost", "vetoed"), [(5, False), (25, True)])
def test_a_slice_that_is_worse_beyond_its_margin_vetoes(lost: int, vetoed: bool) -> None:
    within = np.arange(400) < 100
    held_out = Pair(answers(400, 200), answers(400, 300, first=lost))
    verdict = gate.judge(Evidence(held_out, STEADY, parts={"source wire": within, "class neutral": ~within}))
    assert verdict.promote is not vetoed
    (wire,) = (part for part in verdict.slices if part.name == "source wire")
    assert (wire.n, wire.lost, wire.gained, wire.margin) == (100, lost, 0, gate.MARGIN)
    assert wire.vetoes is vetoed
    assert not vetoed or verdict.reason.startswith("vetoed: source wire: 100.0% → 75.0%; overall")


def test_a_slice_below_the_stated_size_is_not_judged() -> None:
    within = np.arange(400) < gate.MIN_SLICE - 1
    verdict = gate.judge(Evidence(Pair(answers(400, 200), answers(400, 300, first=49)), STEADY, parts={"x": within}))
    assert verdict.promote and [part.name for part in verdict.slices] == [gate.ANCHOR]


@pytest.mark.parametrize(("moved", "vetoed"), [(15, False), (40, True)])
def test_one_that_edits_unsettle_more_than_the_champion_is_vetoed(moved: int, vetoed: bool) -> None:
    edits = {
        "typo": Pair(answers(200, 190), answers(200, 200 - moved)),
        "case": Pair(answers(200, 200), answers(200, 200)),
    }
    verdict = gate.judge(Evidence(BETTER, STEADY, edits=edits))
    assert verdict.promote is not vetoed
    assert not vetoed or "unstable: typo moves 20.0% of answers, the champion's 5.0%" in verdict.reason


@pytest.mark.parametrize(("sure", "vetoed"), [(0.65, False), (0.99, True)])
def test_one_whose_probabilities_are_off_is_vetoed(sure: float, vetoed: bool) -> None:
    confidence = Pair(np.full(400, 0.5), np.full(400, sure))
    verdict = gate.judge(Evidence(BETTER, STEADY, confidence=confidence))
    assert verdict.promote is not vetoed and verdict.calibration is not None
    assert verdict.calibration.challenger == pytest.approx(max(abs(sure - 0.6), verdict.calibration.challenger))
    assert not vetoed or "miscalibrated" in verdict.reason


@pytest.mark.parametrize(("speed", "vetoed"), [(0.5, False), (0.49, True)])
def test_one_that_is_slow_is_vetoed(speed: float, vetoed: bool) -> None:
    verdict = gate.judge(Evidence(BETTER, STEADY, speed=speed))
    assert verdict.promote is not vetoed
    assert not vetoed or "slow: 49% of the champion's texts a second" in verdict.reason


def test_a_veto_is_on_record_even_where_nothing_is_better() -> None:
    verdict = gate.judge(Evidence(Pair(answers(100, 50), answers(100, 50)), STEADY, speed=0.1))
    assert verdict.reason.startswith("not enough evidence") and len(verdict.vetoes) == 1


def test_all_of_the_evidence_can_be_stored_and_read_back() -> None:
    evidence = Evidence(
        BETTER,
        STEADY,
        {"source wire": np.arange(400) < 100},
        {"typo": STEADY},
        Pair(np.full(400, 0.5), np.full(400, 0.6)),
    )
    verdict = gate.judge(evidence)
    assert msgspec.convert(msgspec.json.decode(msgspec.json.encode(msgspec.to_builtins(verdict))), Verdict) == verdict


@pytest.mark.parametrize("alpha", [0.05, 0.0077, 0.001])
def test_the_exact_test_keeps_its_level_at_every_number_of_disagreements(alpha: float) -> None:
    for pairs in range(1, 41):
        rejected = sum(comb(pairs, wins) for wins in range(pairs + 1) if gate.mcnemar(wins, pairs - wins) <= alpha)
        assert rejected / 2**pairs <= alpha


@pytest.mark.parametrize("disagreement", [0.1, 0.2, 0.3])
def test_the_margins_test_keeps_near_its_level_by_enumeration(disagreement: float) -> None:
    """At the smallest slice and a loss of exactly the margin, over all tables."""
    n, level = gate.MIN_SLICE, 0.05
    gains, losses = (disagreement - gate.MARGIN) / 2, (disagreement + gate.MARGIN) / 2
    rejected = sum(
        float(multinomial.pmf([gained, lost, n - gained - lost], n, [gains, losses, 1 - disagreement]))
        for gained, lost in product(range(n + 1), repeat=2)
        if gained + lost <= n and gate.worse(n, gained, lost, gate.MARGIN) <= level
    )
    assert 0.5 * level < rejected < 1.35 * level


def test_a_larger_margin_forgives_more_and_none_is_mcnemar() -> None:
    p_values = [gate.worse(100, 5, 20, margin) for margin in (0.0, 0.02, 0.05, 0.10)]
    assert p_values == sorted(p_values) and p_values[0] == gate.mcnemar(20, 5)
    assert gate.worse(100, 0, 0, 0.05) > 0.95
    assert gate.worse(100, 10, 15, 0.05) == pytest.approx(0.5)


def test_holm_is_what_its_paper_says() -> None:
    assert gate.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert gate.holm([0.9, 0.8]) == [1.0, 1.0] and gate.holm([]) == []
