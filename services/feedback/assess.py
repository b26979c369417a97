"""Trust over the stored words: read, judge, set aside, and what of it may teach. The sums are in `trust` and
`quarantine`.

All of it follows from the rows of `example`, `gold_answer` and `quarantine`, whenever it is asked, so that a dataset
can be had again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Final, Literal, NamedTuple

import msgspec
from psycopg2.extensions import cursor as Cursor

from services import annotators
from services.feedback import quarantine, trust
from services.feedback.quarantine import Reason
from services.feedback.trust import Annotator, Judgement, Voter, Word
from services.stream.errors import Rejected
from services.stream.events import LABELS, Label
from services.trainer.anchors import anchors

Decision = Literal["held", "released", "refused"]
Before = Mapping[int, int]
"""By partition of `training.examples`, the offset up to which words count."""

MOST_OF_A_SET: Final = 0.5
"""Of three or more qualified annotators none carries alone more than this share of what is learned, nor more than twice
an equal share: so whoever turns, and isn't found out yet, has at least as many honest words against them."""
CAPPED_FROM: Final = 3
UNPROVEN_SHARE: Final = 0.1
"""What only newcomers say has at most this share of what trusted people say, once there are any."""
LEAST_WEIGHT: Final = 0.01
"""Below it a text is left out: its words contradict each other."""


class Quarantined(msgspec.Struct, frozen=True):
    """One finding and what became of it; `words` are ids of examples. Times are ms since the epoch."""

    id: int
    annotator: str
    reason: Reason
    subject: str
    detail: str
    words: list[str]
    state: Decision
    decided_by: str | None
    decided: int | None
    found: int


class Taught(NamedTuple):
    """What one story may teach or measure."""

    label: int
    weight: float
    """0 where people's words contradict each other."""
    measures: bool
    """Its label is settled by trusted people, and one of them was shown it at random; whether it is held out is not
    asked."""


def judgement(cursor: Cursor, before: Before | None = None) -> Judgement:
    """What the words say, those `before` a cut or all; writes nothing."""
    return _judged(words(cursor, before), every(cursor))


def hold(cursor: Cursor, now: int) -> int:
    """Look for words to set aside, and do; how many findings are new or have grown."""
    said, before = words(cursor), every(cursor)
    decided: defaultdict[Reason, set[str]] = defaultdict(set)
    for row in before:
        if row.state != "held":
            decided[row.reason].update(row.words)
    known = {(row.annotator, row.reason, row.subject): set(row.words) for row in before if row.state == "held"}
    changed = 0
    for finding in quarantine.findings(said, _judged(said, before), decided):
        key = (finding.annotator, finding.reason, finding.subject)
        if not set(finding.words) <= known.get(key, set()):
            changed += 1
            cursor.execute(
                "INSERT INTO quarantine AS q (annotator, reason, subject, detail, words, found)"
                " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (annotator, reason, subject) WHERE state = 'held'"
                " DO UPDATE SET detail = excluded.detail,"
                " words = ARRAY(SELECT DISTINCT unnest(q.words || excluded.words) ORDER BY 1)",
                (*key, finding.detail, list(finding.words), now),
            )
    return changed


def measured(cursor: Cursor) -> dict[str, Label]:
    """By text id, the label of each held-out text that trusted people settle, one of whom was shown it at random."""
    found = {example: story for example, story in taught(cursor).items() if story.measures}
    cursor.execute("SELECT example_id, text_id FROM example WHERE holdout AND example_id = ANY(%s)", ([*found],))
    return {text: LABELS[found[example].label] for example, text in cursor.fetchall()}


def taught(cursor: Cursor, before: Before | None = None) -> dict[str, Taught]:
    """By the example that carries it, what each story may teach by the words `before` a cut, or all: without what
    trusted people flagged, with weights that nobody's share exceeds. What is set aside, and gold answers, are as they
    are now."""
    judged = judgement(cursor, before)
    flagged = _flagged(cursor, before, judged.trusted())
    cursor.execute("SELECT example_id FROM example WHERE holdout")
    return weighed(judged, flagged, {example for (example,) in cursor.fetchall()})


def weighed(judged: Judgement, flagged: Collection[str], held_out: Collection[str]) -> dict[str, Taught]:
    """By the example that carries it, each story, but for the `flagged`; examples `held_out` take nobody's share."""
    stories = [story for story in judged.consensus if story.carrier and story.item not in flagged]
    weights = _capped([s for s in stories if s.carrier not in held_out], judged)
    found = {}
    for story in stories:
        measures = story.sampled and story.trusted > 0 and story.probability >= trust.SETTLED
        weight = weights.get(story.carrier, story.weight)
        found[story.carrier] = Taught(story.label, round(weight, 6) if weight >= LEAST_WEIGHT else 0.0, measures)
    return found


def decide(cursor: Cursor, finding: int, state: Literal["released", "refused"], by: str, now: int) -> Quarantined:
    """A person's decision; another one may change it later, unless its words were found again meanwhile.

    Raises:
        Rejected: there is no such finding.
    """
    cursor.execute(
        "UPDATE quarantine SET state = %s, decided_by = %s, decided = %s WHERE id = %s", (state, by, now, finding)
    )
    for row in shown(cursor):
        if row.id == finding:
            return row
    raise Rejected("unknown", f"nothing is quarantined under {finding}; `tickerloop quarantine list` shows what is")


def every(cursor: Cursor) -> list[Quarantined]:
    """All findings, oldest first."""
    names = Quarantined.__struct_fields__
    cursor.execute(f"SELECT {', '.join(names)} FROM quarantine ORDER BY id")  # noqa: S608 (our own names)
    return [Quarantined(*row) for row in cursor.fetchall()]


def shown(cursor: Cursor) -> list[Quarantined]:
    """As `every`, with people's names; of one who was erased, the pseudonym that is left."""
    found = every(cursor)
    names = annotators.names(cursor, {row.annotator for row in found})
    return [
        msgspec.structs.replace(
            row, annotator=names.get(row.annotator, row.annotator), detail=_named(row.detail, names)
        )
        for row in found
    ]


def _named(detail: str, names: Mapping[str, str]) -> str:
    for pseudonym, name in names.items():
        detail = detail.replace(pseudonym, name)
    return detail


def people(cursor: Cursor) -> list[Annotator]:
    """Everyone who has said anything, by name."""
    found = judgement(cursor).annotators
    names = annotators.names(cursor, [one.name for one in found])
    named = [msgspec.structs.replace(one, name=names.get(one.name, one.name)) for one in found]
    return sorted(named, key=lambda one: one.name)


def words(cursor: Cursor, before: Before | None = None) -> list[Word]:
    """The labels that count, and the answers to gold questions; in a fixed order."""
    cursor.execute(
        "SELECT w.example_id, w.cluster, w.who, w.role, w.label, w.given, w.predicted, p.tickers, w.sampled"
        " FROM words(%s, %s) w LEFT JOIN prediction p USING (prediction_id) ORDER BY w.cluster, w.who",
        _arrays(before),
    )
    said = [
        Word(
            id=example,
            item=cluster,
            who=who,
            granted=role != "annotator",
            label=LABELS.index(label),
            given=given,
            predicted=LABELS.index(predicted),
            tickers=tuple(tickers or ()),
            sampled=sampled,
        )
        for example, cluster, who, role, label, given, predicted, tickers, sampled in cursor.fetchall()
    ]
    return said + _answers(cursor)


def _arrays(before: Before | None) -> tuple[list[int] | None, list[int] | None]:
    return (None, None) if before is None else (list(before), list(before.values()))


def _answers(cursor: Cursor) -> list[Word]:
    truths = {anchor.id: LABELS.index(anchor.label) for anchor in anchors()}
    cursor.execute(
        "SELECT DISTINCT ON (gold, who) feedback_id, gold,"
        " CASE role WHEN 'local' THEN 'local' ELSE annotator END AS who, role, label, given FROM gold_answer"
        " ORDER BY gold, who, given DESC, feedback_id"
    )
    return [
        Word(answer, f"gold {gold}", who, role != "annotator", LABELS.index(label), given, truth=truths[gold])
        for answer, gold, who, role, label, given in cursor.fetchall()
        if gold in truths
    ]


def _judged(said: Sequence[Word], rows: Sequence[Quarantined]) -> Judgement:
    silent = {word for row in rows if row.state != "released" for word in row.words}
    copied = {word for row in rows if row.state != "released" and row.reason == "copied" for word in row.words}
    return trust.judge(said, silent, copied)


def _flagged(cursor: Cursor, before: Before | None, trusted: set[Voter]) -> set[str]:
    cursor.execute("SELECT cluster, who, role FROM kept_words(%s, %s) WHERE kind = 'flag'", _arrays(before))
    return {cluster for cluster, who, role in cursor.fetchall() if Voter(who, role != "annotator") in trusted}


def _capped(stories: Sequence[trust.Consensus], judged: Judgement) -> Mapping[str, float]:
    """Weights by carrier, under both limits of a share."""
    qualified = sum(annotator.state == "qualified" for annotator in judged.annotators)
    own: defaultdict[str, float] = defaultdict(float)
    for story in stories:
        if story.sole is not None:
            own[story.sole] += story.weight
    proven = sum(story.weight for story in stories if story.trusted)
    most = min(MOST_OF_A_SET, 2 / qualified) if qualified >= CAPPED_FROM else 1.0
    allowed = trust.limit([*own.values()], proven - sum(own.values()), most) if most < 1 else float("inf")
    factors = {who: min(1.0, allowed / weight) for who, weight in own.items() if weight}
    unproven = sum(story.weight for story in stories if not story.trusted)
    rest = min(1.0, UNPROVEN_SHARE * proven / unproven) if unproven and judged.trusted() else 1.0
    return {
        story.carrier: story.weight * (factors.get(story.sole or "", 1.0) if story.trusted else rest)
        for story in stories
    }
