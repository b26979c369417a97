"""A new champion against the one before, by the labels that come after it: worse, and it is rolled back.

Counted is each text of the random share whose first label came after the promotion. Those that were labelled before
are in the gate's evidence: the champion was chosen for being right on them, so its wins there say nothing, and would
hide a loss. (They would not make a good champion look worse; the test's level doesn't rest on leaving them out, its
power does.) Both models' answers come from the trainer, on the same runtime, whoever scored the text when it came.
A label counts once trusted people settle it (`assess.measured`). The test is `sequential`, which may be asked after
every label.

Watched is a champion that was promoted, by whomever, until the next change. One that was rolled back to is not: it
stays until something is proved better, or the two would change places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from services.feedback import assess
from services.trainer.registry import CHANGES, LedgerRow
from services.trainer.sequential import ALPHA, Watch

BATCH: Final = 32
"""Texts of a look: a tenth of a second of one core."""

Said = tuple[str, str]
"""The champion's label, and the former one's; '' of one that can't score the text, which is never right."""


class Watched(msgspec.Struct, frozen=True):
    """A champion so far; `epoch` is its ledger row."""

    epoch: int
    version: str
    former: str
    labels: int
    """Texts of the random share that were labelled since."""
    right: int
    """The champion's right answers."""
    former_right: int
    wins: int
    """Texts that the champion alone has right."""
    losses: int
    """Texts that the former alone has right."""
    log_evidence: float
    """Natural logarithm of the evidence that it is worse; see `sequential`."""
    alpha: float
    worse: bool

    @property
    def reason(self) -> str:
        """One line."""
        return f"worse than {self.former}: +{self.wins} −{self.losses} of {self.labels} labels since, α = {self.alpha}"


def watched(rows: Sequence[LedgerRow]) -> LedgerRow | None:
    """The promotion of the champion that is watched; `rows` are oldest first."""
    newest = next((row for row in reversed(rows) if row.action in CHANGES), None)
    promoted = newest is not None and newest.action == "promote" and newest.champion is not None
    return newest if promoted else None


def fresh(cursor: Cursor, row: LedgerRow) -> dict[str, str]:
    """Texts by id whose label has come since and that nobody has answered for this yet, some at a time."""
    cursor.execute(
        "SELECT e.text_id, t.body FROM (SELECT text_id, min(given) AS first, min(position) AS place FROM example"
        " WHERE holdout AND sampled GROUP BY text_id) e JOIN text t USING (text_id) WHERE e.first > %s"
        " AND NOT EXISTS (SELECT FROM watched w WHERE w.epoch = %s AND w.text_id = e.text_id)"
        " ORDER BY e.place LIMIT %s",
        (row.at, row.epoch, BATCH),
    )
    return dict(cursor.fetchall())


def state(cursor: Cursor, row: LedgerRow) -> tuple[int, int]:
    """What `found` follows from; it is the same while this is."""
    cursor.execute(
        "SELECT (SELECT coalesce(max(position), 0) FROM example), (SELECT count(*) FROM watched WHERE epoch = %s)",
        (row.epoch,),
    )
    position, answers = cursor.fetchone() or (0, 0)
    return int(position), int(answers)


def keep(cursor: Cursor, row: LedgerRow, said: Mapping[str, Said]) -> None:
    """Store answers by text; what is stored already stays."""
    values = [(row.epoch, text_id, *labels) for text_id, labels in said.items()]
    execute_values(
        cursor, "INSERT INTO watched (epoch, text_id, champion, former) VALUES %s ON CONFLICT DO NOTHING", values
    )


def found(cursor: Cursor, row: LedgerRow) -> Watched:
    """How the champion of `row` has done by trusted people's words: nobody else can bring a champion down."""
    labels = assess.measured(cursor)
    cursor.execute(
        "SELECT text_id, champion, former FROM watched WHERE epoch = %s AND text_id = ANY(%s)", (row.epoch, [*labels])
    )
    outcomes = [(former == labels[text], now == labels[text]) for text, now, former in cursor.fetchall()]
    seen = Watch().seen(outcomes)
    return Watched(
        epoch=row.epoch,
        version=row.version,
        former=row.champion or "",
        labels=len(outcomes),
        right=sum(now for _, now in outcomes),
        former_right=sum(before for before, _ in outcomes),
        wins=seen.wins,
        losses=seen.losses,
        log_evidence=round(seen.log_evidence, 4),
        alpha=ALPHA,
        worse=seen.worse(),
    )
