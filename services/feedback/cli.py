"""`tickerloop annotators` and `tickerloop quarantine`: whom the loop believes, and which words wait for a person."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Literal

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.feedback.assess import Quarantined
from services.feedback.trust import Annotator, Share
from services.stream.errors import Rejected
from services.terminal import database, show


@click.group()
def annotators() -> None:
    """Whom the loop believes, and how far.

    \b
    States:
      operator     trusted by the key's role; without keys all names together are one, called local
      qualified    at least 20 measured words, and the share of right ones is .7 or more at its lower bound (95 %)
      newcomer     not measured enough, or not good enough: a word teaches with a quarter of the weight at most
      turned       was good enough, but isn't by the last 30 measured words; says nothing until these are good again
      distrusted   right in less than half of all measured words, at the upper bound; says nothing

    A word is measured by gold questions, and where other trusted people judged the same text; never by the model.
    """


@annotators.command("list")
@click.option("--json", "as_json", is_flag=True, help="for scripts")
def annotators_list(as_json: bool) -> None:
    """All who have said anything, by name."""
    found = _judged()
    if as_json:
        show(found)
        return
    table = Table(
        "name", "state", "words", "reliability", "at least", "at most", "gold", "overlaps", "weight", box=None
    )
    for one in found:
        bounds = (f"{_rate(one.reliability)}", f"{one.reliability.low:.2f}", f"{one.reliability.high:.2f}")
        table.add_row(
            escape(one.name),
            one.state,
            f"{one.words:,}",
            *bounds,
            _of(one.gold),
            _of(one.overlaps),
            f"{one.weight:.2f}",
        )
    Console().print(table if found else "nobody has said anything yet")


@annotators.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="for scripts")
def annotators_show(name: str, as_json: bool) -> None:
    """NAME's reliability, of all, recent and by class of the text, and what of theirs was set aside."""
    from services.feedback import assess

    found = [one for one in _judged() if one.name == name]
    if not found:
        raise Rejected("unknown", f"{name} has said nothing; `tickerloop annotators list` shows who has")
    with database() as cursor:
        aside = [row for row in assess.shown(cursor) if row.annotator == name]
    if as_json:
        show({"standings": found, "quarantine": aside})
        return
    for one in found:
        click.echo(f"{name}, {one.state}: {one.words:,} words, one alone weighs {one.weight:.2f}")
        parts: dict[str, Share] = {
            "all": one.reliability,
            "gold": one.gold,
            "overlaps": one.overlaps,
            "recent": one.recent,
        }
        parts |= {str(label): record for label, record in one.classes.items()}
        table = Table("", "right", "rate", "at least", "at most", box=None)
        for part, record in parts.items():
            table.add_row(part, _of(record), _rate(record), f"{record.low:.2f}", f"{record.high:.2f}")
        Console().print(table)
    Console().print(_findings(aside) if aside else "nothing of theirs was set aside")


@click.group()
def quarantine() -> None:
    """Words that were set aside: they neither teach nor measure until a person has decided.

    \b
    Reasons:
      burst         more words a minute than anyone reads
      one-sided     50 words in a row of nearly one label, which such texts rarely are
      copied        what another had said before, their errors, too
      contradicts   what two or more trusted people agree on, of the same story
      turned        since an annotator's measured words went wrong
      ticker        on a ticker, or an exchange, on which someone agrees with others far less than elsewhere
    """


@quarantine.command("list")
@click.option("--all", "all_", is_flag=True, help="what was decided, too")
@click.option("--json", "as_json", is_flag=True, help="for scripts; with the words' ids")
def quarantine_list(all_: bool, as_json: bool) -> None:
    """What waits for a decision, oldest first."""
    from services.feedback import assess

    with database() as cursor:
        found = [row for row in assess.shown(cursor) if all_ or row.state == "held"]
    if as_json:
        show(found)
    else:
        Console().print(_findings(found) if found else "nothing is set aside")


_actor = click.option("--actor", default=lambda: os.environ.get("USER", "operator"), help="who decides")


@quarantine.command("release")
@click.argument("finding", metavar="ID", type=int)
@_actor
def release(finding: int, actor: str) -> None:
    """Let the words of ID count; they aren't held for this reason again."""
    _decide(finding, "released", actor)


@quarantine.command("refuse")
@click.argument("finding", metavar="ID", type=int)
@_actor
def refuse(finding: int, actor: str) -> None:
    """Keep the words of ID from counting for good. They go on to measure who gave them."""
    _decide(finding, "refused", actor)


def _decide(finding: int, state: Literal["released", "refused"], actor: str) -> None:
    from services.feedback import assess
    from services.runtime import now_ms

    with database() as cursor:
        row = assess.decide(cursor, finding, state, actor, now_ms())
    click.echo(f"{row.id}: {len(row.words)} words of {row.annotator} are {row.state}")


def _judged() -> list[Annotator]:
    from services.feedback import assess

    with database() as cursor:
        return assess.people(cursor)


def _findings(found: list[Quarantined]) -> Table:
    table = Table("id", "annotator", "reason", "words", "state", "found", "detail", box=None)
    for row in found:
        when = datetime.fromtimestamp(row.found / 1000, UTC).strftime("%Y-%m-%d %H:%M")
        reason = f"{row.reason} {row.subject}".rstrip()
        state = row.state if row.decided_by is None else f"{row.state} by {row.decided_by}"
        cells = (str(row.id), row.annotator, reason, f"{len(row.words):,}", state, when, row.detail)
        table.add_row(*map(escape, cells))
    return table


def _rate(record: Share) -> str:
    return f"{record.right / record.n:.2f}" if record.n else ""


def _of(record: Share) -> str:
    return f"{record.right:g} of {record.n}" if record.n else ""
