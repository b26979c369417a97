"""A source that floods is capped; the others, and one that is alone below the cap, are taken whole."""

from __future__ import annotations

import pytest
from trainer.dataset_kit import dataset

from services.trainer import caps
from services.trainer.caps import OVER, capped
from services.trainer.dataset import Labelled


def labels(**sources: int) -> list[Labelled]:
    names = [source for source, n in sources.items() for _ in range(n)]
    return [Labelled(f"e{i}", f"text {i}", 1, True, source=name, at=i) for i, name in enumerate(names)]


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caps, "MANY", 20)


def test_of_a_source_that_floods_the_newest_are_taken() -> None:
    found = capped(dataset(learn=labels(flood=100, desk=10)))
    assert [e.at for e in found.learn] == list(range(60, 110)), "four times as many as of all others, and these"
    assert found.left_out == {OVER: 60}


def test_a_source_alone_has_its_newest_taken() -> None:
    assert [e.at for e in capped(dataset(learn=labels(wire=30))).learn] == list(range(10, 30))


@pytest.mark.parametrize("sources", [{"wire": 20}, {"wire": 20, "desk": 1}, {"wire": 40, "desk": 10}, {}])
def test_what_is_within_its_share_is_taken_whole(sources: dict[str, int]) -> None:
    data = dataset(learn=labels(**sources), left_out={"copies": 1})
    assert capped(data) == data
