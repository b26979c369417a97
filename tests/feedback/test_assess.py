"""Trust over the stored rows: what is set aside stays so until a person decides, and what may teach and measure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import cursor as Cursor

from services.feedback import assess
from services.feedback.assess import MOST_OF_A_SET, UNPROVEN_SHARE, decide, every, hold, judgement, taught
from services.feedback.quarantine import BURST
from services.stream.errors import Rejected
from services.stream.events import LABELS, Label
from services.trainer import manifest
from services.trainer.anchors import anchors
from services.trainer.dataset import collect


@pytest.fixture
def cursor(database: str) -> Iterator[Cursor]:
    with closing(psycopg2.connect(database)) as connection, connection.cursor() as found:
        yield found


class Rows:
    """Writes what the services would."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor, self._n = cursor, 0

    def say(
        self,
        who: str,
        story: str,
        label: Label | None,
        *,
        role: str = "annotator",
        kind: str = "correction",
        **more: Any,
    ) -> str:
        self._n += 1
        fields = {
            "example_id": f"e{self._n:05}", "feedback_id": f"f{self._n:05}", "prediction_id": story, "text_id": story,
            "cluster": story, "kind": kind, "predicted": "neutral", "label": label, "flag": None, "model": "m",
            "epoch": 1,
            "annotator": who, "role": role, "sampled": False, "holdout": False, "given": 60_000 * self._n,
        } | more  # fmt: skip
        names, values = ", ".join(fields), ", ".join(["%s"] * len(fields))
        self._cursor.execute(f"INSERT INTO example ({names}) VALUES ({values})", [*fields.values()])  # noqa: S608 (our own names)
        self._cursor.execute(
            "INSERT INTO text (text_id, cluster, body, source, language, marks, event_time, received)"
            " VALUES (%s, %s, %s, 'wire', 'en', '{}', 0, 0) ON CONFLICT DO NOTHING",
            (fields["text_id"], fields["cluster"], f"body of {story}"),
        )
        return str(fields["feedback_id"])

    def withdraw(self, feedback_id: str, story: str) -> None:
        self.say("ana", story, None, kind="withdrawal", feedback_id=feedback_id)

    def qualify(self, who: str, n: int = 24, wrong: int = 0) -> None:
        for at, anchor in enumerate(anchors()[:n]):
            self._n += 1
            label = anchor.label if at >= wrong else next(name for name in LABELS if name != anchor.label)
            self._cursor.execute(
                'INSERT INTO gold_answer (feedback_id, annotator, role, gold, label, "right", given)'
                " VALUES (%s, %s, 'annotator', %s, %s, %s, %s)",
                (f"{who}{at}", who, anchor.id, label, label == anchor.label, 60_000 * self._n),
            )


@pytest.fixture
def rows(cursor: Cursor) -> Rows:
    return Rows(cursor)


def learned(cursor: Cursor) -> dict[str, tuple[Label, float]]:
    return {e.text.removeprefix("body of "): (LABELS[e.label], e.weight) for e in collect(cursor).learn}


def states(cursor: Cursor) -> dict[str, str]:
    return {annotator.name: annotator.state for annotator in judgement(cursor).annotators}


def test_all_names_without_keys_are_one_annotator_trusted_as_an_operator(cursor: Cursor, rows: Rows) -> None:
    rows.say("ana", "a", "positive", role="local")
    rows.say("bo", "a", "negative", role="local")
    rows.say("bo", "b", "negative")
    assert states(cursor) == {"local": "operator", "bo": "newcomer"}
    found = learned(cursor)
    assert found["a"][0] == "negative" and found["a"][1] > 0.95
    assert found["b"] == ("negative", pytest.approx(UNPROVEN_SHARE * found["a"][1], rel=1e-3))


def test_the_last_word_that_was_not_withdrawn_counts(cursor: Cursor, rows: Rows) -> None:
    rows.say("ana", "a", "positive", role="operator")
    last = rows.say("ana", "a", "negative", role="operator")
    only = rows.say("ana", "b", "negative", role="operator")
    assert {story: label for story, (label, _) in learned(cursor).items()} == {"a": "negative", "b": "negative"}
    rows.withdraw(last, "a")
    rows.withdraw(only, "b")
    assert {story: label for story, (label, _) in learned(cursor).items()} == {"a": "positive"}


def test_gold_qualifies_and_its_answers_teach_nothing(cursor: Cursor, rows: Rows) -> None:
    rows.qualify("ana")
    rows.qualify("bo", wrong=12)
    assert states(cursor) == {"ana": "qualified", "bo": "newcomer"}
    assert learned(cursor) == {}


def test_two_who_qualified_overrule_a_newcomer(cursor: Cursor, rows: Rows) -> None:
    for who in ("ana", "bo"):
        rows.qualify(who)
        rows.say(who, "a", "positive")
    rows.say("cy", "a", "negative")
    label, weight = learned(cursor)["a"]
    assert label == "positive" and weight > 0.95


def test_what_trusted_people_flag_is_left_out(cursor: Cursor, rows: Rows) -> None:
    for story in ("a", "b", "c"):
        rows.say("boss", story, "positive", role="operator")
    rows.say("new", "a", None, kind="flag", flag="spam")
    rows.say("boss", "b", None, role="operator", kind="flag", flag="not_financial")
    back = rows.say("boss", "c", None, role="operator", kind="flag", flag="spam")
    assert learned(cursor).keys() == {"a"}
    rows.withdraw(back, "c")
    assert learned(cursor).keys() == {"a", "c"}


def test_only_what_trusted_people_were_shown_at_random_measures(cursor: Cursor, rows: Rows) -> None:
    for who, role in (("boss", "operator"), ("new", "annotator")):
        rows.say(who, f"{who} drew", "positive", role=role, sampled=True, holdout=True)
        rows.say(who, f"{who} chose", "positive", role=role, sampled=False, holdout=True)
    rows.say("boss", "disputed", "positive", role="operator", sampled=True, holdout=True)
    rows.say("chief", "disputed", "negative", role="operator", sampled=True, holdout=True)
    assert [e.text for e in collect(cursor).measure] == ["body of boss drew"]


def test_no_annotator_carries_more_than_the_limit(cursor: Cursor, rows: Rows) -> None:
    sizes = {"ana": 60, "bo": 20, "cy": 20}
    for who, n in sizes.items():
        rows.qualify(who)
        for at in range(n):
            rows.say(who, f"{who}{at}", LABELS[at % 3])
    found = learned(cursor)
    assert len(found) == 100
    mine = {who: sum(weight for story, (_, weight) in found.items() if story.startswith(who)) for who in sizes}
    assert mine["ana"] / sum(mine.values()) == pytest.approx(MOST_OF_A_SET, rel=1e-3)
    assert mine["bo"] == mine["cy"] > 15
    cursor.execute("DELETE FROM gold_answer WHERE annotator = 'cy'")
    alone = {who: sum(w for story, (_, w) in learned(cursor).items() if story.startswith(who)) for who in sizes}
    assert alone["ana"] == pytest.approx(3 * alone["bo"], rel=0.01), "of two nobody could tell who is too much"


def burst(rows: Rows, who: str, n: int = BURST + 1, start: int = 0) -> None:
    for at in range(start, start + n):
        rows.say(who, f"{who}{at}", LABELS[at % 3], given=1_000_000 + at)


def test_what_is_set_aside_does_not_teach_until_it_is_released(cursor: Cursor, rows: Rows) -> None:
    burst(rows, "bot")
    assert learned(cursor) == {}
    (finding,) = every(cursor)
    assert (finding.annotator, finding.reason, finding.state, len(finding.words)) == ("bot", "burst", "held", BURST + 1)
    assert hold(cursor, 1) == 0, "found again, it is the same finding"
    row = decide(cursor, finding.id, "released", "boss", 7)
    assert (row.state, row.decided_by, row.decided) == ("released", "boss", 7)
    assert len(learned(cursor)) == BURST + 1
    assert [row.id for row in every(cursor)] == [finding.id]


def test_what_is_refused_never_teaches_and_new_words_make_a_new_finding(cursor: Cursor, rows: Rows) -> None:
    burst(rows, "bot")
    assert hold(cursor, 1) == 1
    burst(rows, "bot", 5, BURST + 1)
    assert hold(cursor, 2) == 1
    (finding,) = every(cursor)
    assert (len(finding.words), finding.found) == (BURST + 6, 1)
    decide(cursor, finding.id, "refused", "boss", 3)
    burst(rows, "bot", BURST + 1, 10_000)
    assert learned(cursor) == {}
    assert [(row.state, len(row.words)) for row in every(cursor)] == [("refused", BURST + 6), ("held", BURST + 1)]


def test_a_finding_that_is_not_there_is_named(cursor: Cursor) -> None:
    with pytest.raises(Rejected, match="nothing is quarantined under 7"):
        decide(cursor, 7, "released", "boss", 1)


def test_the_same_rows_give_the_same_dataset(cursor: Cursor, rows: Rows) -> None:
    for who in ("ana", "bo"):
        rows.qualify(who)
        for at in range(30):
            rows.say(who, f"text{at}", LABELS[(at + (at % 7 == 0 and who == "bo")) % 3])
    burst(rows, "bot")
    first = collect(cursor)
    assert manifest.of(first).hash == manifest.of(collect(cursor)).hash
    assert taught(cursor) == taught(cursor)
    (finding,) = (row for row in every(cursor) if row.reason == "burst")
    assess.decide(cursor, finding.id, "released", "boss", 1)
    assert manifest.of(collect(cursor)).hash != manifest.of(first).hash
