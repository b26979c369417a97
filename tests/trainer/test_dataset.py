"""What a run learns from and what measures it, from the rows that the services leave."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest
from psycopg2.extensions import cursor as Cursor

from services.stream.events import LABELS, Label, in_holdout
from services.trainer import manifest
from services.trainer.anchors import anchors
from services.trainer.dataset import LIVE_REPLAY, collect


@pytest.fixture
def cursor(database: str) -> Iterator[Cursor]:
    with closing(psycopg2.connect(database)) as connection, connection.cursor() as found:
        yield found


def text(cursor: Cursor, text_id: str, cluster: str | None = None) -> None:
    cursor.execute(
        "INSERT INTO text (text_id, cluster, body, source, language, marks, event_time, received)"
        " VALUES (%s, %s, %s, 'wire', 'en', '{}', 0, 0)",
        (text_id, cluster or text_id, f"body of {text_id}"),
    )


def said(
    cursor: Cursor, text_id: str, label: Label, *, sampled: bool = False, holdout: bool = False, given: int = 1
) -> None:
    """One reader's word on a text that is there."""
    cursor.execute("SELECT count(*) FROM example")
    name = f"e{cursor.fetchone()}"
    cursor.execute(
        "INSERT INTO example (example_id, feedback_id, prediction_id, text_id, cluster, predicted, label, model, epoch,"
        " annotator, sampled, holdout, given) VALUES (%s, %s, 'p', %s, %s, 'neutral', %s, 'm', 1, 'ana', %s, %s, %s)",
        (name, name, text_id, text_id, label, sampled, holdout, given),
    )


def bodies(examples: list[object]) -> set[str]:
    return {example.text.removeprefix("body of ") for example in examples}  # type: ignore[attr-defined]


def test_held_out_texts_never_teach_and_only_their_sampled_labels_measure(cursor: Cursor) -> None:
    for sampled in (False, True):
        for holdout in (False, True):
            name = f"{'sampled' if sampled else 'chosen'}-{'held' if holdout else 'free'}"
            text(cursor, name)
            said(cursor, name, "positive", sampled=sampled, holdout=holdout)
    data = collect(cursor)
    assert bodies([*data.learn]) == {"chosen-free", "sampled-free"}
    assert bodies([*data.measure]) == {"sampled-held"}


def test_what_measures_knows_where_it_came_from(cursor: Cursor) -> None:
    text(cursor, "held")
    said(cursor, "held", "positive", sampled=True, holdout=True)
    (without,) = collect(cursor).measure
    cursor.execute(
        "INSERT INTO prediction (prediction_id, text_id, cluster, label, negative, neutral, positive, model, epoch,"
        " tickers, source, language, event_time, scored, truncated, origin_partition, origin_offset)"
        " VALUES ('p', 'held', 'held', 'neutral', 0, 1, 0, 'm', 1, '{AAPL,TCS.NS}', 'wire', 'en', 0, 0, false, 0, 0)"
    )
    (example,) = collect(cursor).measure
    assert (example.source, example.language, example.tickers) == ("wire", "en", ("AAPL", "TCS.NS"))
    assert without == example._replace(tickers=())


def test_the_last_word_on_a_text_counts(cursor: Cursor) -> None:
    for name in ("by-time", "by-position"):
        text(cursor, name)
    said(cursor, "by-time", "positive", given=9)
    said(cursor, "by-time", "negative", given=5)  # came later, was given before
    said(cursor, "by-position", "positive", given=7)
    said(cursor, "by-position", "neutral", given=7)
    learned = {e.text.removeprefix("body of "): LABELS[e.label] for e in collect(cursor).learn}
    assert learned == {"by-time": "positive", "by-position": "neutral"}


def test_a_later_word_that_was_not_sampled_takes_a_text_out_of_the_measure(cursor: Cursor) -> None:
    text(cursor, "held")
    said(cursor, "held", "positive", sampled=True, holdout=True, given=1)
    said(cursor, "held", "negative", sampled=False, holdout=True, given=2)
    assert collect(cursor).measure == []


def test_the_parent_answers_for_live_texts_that_nobody_labelled_nor_a_copy_of_them(cursor: Cursor) -> None:
    for number in range(40):
        text(cursor, f"live{number}")
    text(cursor, "labelled")
    said(cursor, "labelled", "positive")
    text(cursor, "copy", cluster="labelled")
    free = {f"live{number}" for number in range(40) if not in_holdout(f"live{number}")}
    assert 0 < len(free) < 40, "the names should fall on both sides"
    live = collect(cursor).live
    assert {one.text.removeprefix("body of ") for one in live} == free
    assert len(live) <= LIVE_REPLAY


def test_the_anchor_set_is_split_between_teaching_and_measuring(cursor: Cursor) -> None:
    data = collect(cursor)
    taught, measured = ({e.example_id for e in part} for part in (data.replay, data.anchor))
    assert taught | measured == {anchor.id for anchor in anchors()} and not taught & measured
    assert min(len(taught), len(measured)) > 0.4 * len(anchors())
    assert data.upto == 0


def test_equal_content_has_an_equal_hash_and_another_label_another(cursor: Cursor) -> None:
    text(cursor, "one")
    said(cursor, "one", "positive")
    first = collect(cursor)
    assert manifest.of(collect(cursor)).hash == manifest.of(first).hash
    said(cursor, "one", "negative", given=2)
    second = collect(cursor)
    assert manifest.of(second).hash != manifest.of(first).hash
    assert second.upto == first.upto + 1
