"""A shadow against the champion: on the same texts, and by the labels that people gave them."""

from __future__ import annotations

import msgspec
from loop.conftest import Bench
from loop.makers import prediction, published, shadow_of

from services import store
from services.stream.events import Label, Prediction
from services.trainer import comparison
from services.trainer.accuracy import accuracy
from services.trainer.comparison import Compared, compared
from services.trainer.registry import Version

SAID: tuple[tuple[str, Label, Label], ...] = (
    ("a", "positive", "positive"),
    ("b", "positive", "negative"),
    ("c", "negative", "negative"),
    ("d", "neutral", "positive"),
)
"""Texts with the champion's label and the shadow's."""


def test_counts_agreement_and_right_answers() -> None:
    found = comparison.comparison(
        [
            ("positive", "positive", None, None),
            ("positive", "negative", "negative", False),
            ("negative", "negative", "negative", True),
            ("neutral", "positive", "neutral", True),
        ]
    )
    assert (found.n, found.agreement) == (4, accuracy([True, False, True, False]))
    assert found.labels == {
        "negative": {"negative": 1, "neutral": 0, "positive": 0},
        "neutral": {"negative": 0, "neutral": 0, "positive": 1},
        "positive": {"negative": 1, "neutral": 0, "positive": 1},
    }
    assert (found.labelled.champion.right, found.labelled.shadow.right, found.labelled.shadow.n) == (2, 2, 3)
    assert (found.sampled.champion.right, found.sampled.shadow.right, found.sampled.shadow.n) == (2, 1, 2)


def test_of_nothing_there_is_an_interval_too() -> None:
    found = comparison.comparison([])
    assert (found.n, found.agreement.low, found.agreement.high) == (0, 0.0, 1.0)


def look(bench: Bench, version: str = "m2", *, shadow: bool = False) -> Compared:
    found: list[Compared] = []
    model = Version(version, None, {}, 1, champion=False, shadow=shadow)
    bench.bus.write(lambda cursor: found.append(compared(cursor, model)) or [])
    return found[0]


def test_it_is_found_in_the_tables(bench: Bench) -> None:
    assert look(bench).comparison is None
    empty = look(bench, shadow=True).comparison
    assert empty is not None and empty.n == 0
    events = [prediction(text, champion) for text, champion, _ in SAID]
    earlier = replaced(events[1], model="m0", prediction_id="earlier", epoch=0, label="negative")
    later = replaced(events[0], model="m3", prediction_id="later", epoch=3, label="negative")
    shadows = [shadow_of(prediction(text, shadow)) for text, _, shadow in (*SAID, ("alone", "neutral", "neutral"))]
    bench.bus.publish([*map(published, (earlier, *events, later)), *shadows])
    bench.run(store.serve, lambda: bench.caught_up(store.GROUP, *store.TOPICS))
    for text, label, sampled, given in (
        ("b", "positive", False, 1),
        ("b", "negative", False, 2),
        ("c", "neutral", True, 1),
    ):
        bench.rows(
            "INSERT INTO example (example_id, feedback_id, prediction_id, text_id, cluster, predicted, label, model,"
            " epoch, annotator, sampled, holdout, given)"
            " VALUES (%s, 'f', 'p', %s, %s, 'neutral', %s, 'm1', 1, 'ana', %s, false, %s) RETURNING 1",
            f"{text}{given}", text, text, label, sampled, given,
        )  # fmt: skip
    found = look(bench).comparison
    assert found is not None
    assert (found.n, found.agreement.right) == (4, 2), "one that only the shadow scored is not compared"
    assert [found.labels[champion][shadow] for _, champion, shadow in SAID] == [1, 1, 1, 1]
    assert (found.labelled.champion.right, found.labelled.shadow.right, found.labelled.shadow.n) == (0, 1, 2)
    assert (found.sampled.shadow.right, found.sampled.shadow.n) == (0, 1)
    assert look(bench, "m1").comparison is None


def replaced(event: Prediction, **changes: object) -> Prediction:
    return msgspec.structs.replace(event, **changes)
