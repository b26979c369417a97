"""Balance: rare classes and sources count more, within bounds; a source that floods is capped."""

from __future__ import annotations

import pytest
from trainer.dataset_kit import dataset

from services.trainer import balance
from services.trainer.balance import MOST, OVER, balanced
from services.trainer.dataset import Labelled


def labels(*groups: tuple[int, int, str]) -> list[Labelled]:
    """Of (how many, label, source)."""
    made = [(label, source) for n, label, source in groups for _ in range(n)]
    return [Labelled(f"e{i:05}", f"text {i}", *one, source=source, at=i) for i, (*one, source) in enumerate(
        (label, True, source) for label, source in made
    )]  # fmt: skip


def weights(*groups: tuple[int, int, str]) -> dict[tuple[int, str], float]:
    return {(e.label, e.source): e.weight for e in balanced(dataset(learn=labels(*groups))).learn}


def test_equal_groups_count_alike() -> None:
    assert set(weights((5, 0, "a"), (5, 1, "a"), (5, 0, "b"), (5, 1, "b")).values()) == {1.0}


def test_a_rare_class_counts_more_by_the_root_of_its_rarity() -> None:
    found = weights((200, 0, "a"), (100, 1, "a"))
    assert found[1, "a"] / found[0, "a"] == pytest.approx(2**0.5)


def test_a_rare_source_counts_more_and_nothing_beyond_the_bounds() -> None:
    found = weights((900, 0, "wire"), (90, 0, "desk"), (1, 1, "blog"))
    assert found[0, "wire"] < found[0, "desk"] < found[1, "blog"]
    assert max(found.values()) / min(found.values()) == pytest.approx(MOST**2)


def test_in_the_mean_weights_stay_and_what_a_label_was_worth_before_counts() -> None:
    learn = labels((30, 0, "a"), (10, 1, "b"))
    found = balanced(dataset(learn=learn)).learn
    assert sum(e.weight for e in found) == pytest.approx(len(found))
    half = balanced(dataset(learn=[e._replace(weight=0.5) for e in learn])).learn
    assert [e.weight for e in half] == pytest.approx([e.weight / 2 for e in found])


def test_a_source_that_floods_is_capped_at_a_multiple_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balance, "MANY", 20)
    found = balanced(dataset(learn=labels((100, 0, "flood"), (10, 1, "a"))))
    flood = [e.at for e in found.learn if e.source == "flood"]
    assert flood == list(range(60, 100)), "the newest four times as many as of all others"
    assert found.left_out == {OVER: 60}
    alone = balanced(dataset(learn=labels((100, 0, "flood"))))
    assert len(alone.learn) == 20
    few = balanced(dataset(learn=labels((15, 0, "a"), (1, 1, "b"))))
    assert len(few.learn) == 16 and few.left_out == {}


def test_nothing_to_learn_from_is_nothing_to_weigh() -> None:
    assert balanced(dataset()).learn == []
