"""The demo's report: for a glance in the terminal, for a script as JSON, for a longer look as a page."""

from __future__ import annotations

from html import escape
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from services import plots
from services.demo.readers import HOSTILE
from services.status import Account
from services.trainer import design
from services.trainer.accuracy import Accuracy
from services.trainer.registry import LedgerRow

MIN_MEASURED = 250
"""Texts that nobody corrected: fewer would leave a gain in doubt."""
NAMES = {
    "energy": "energy desk",
    "metals_ags": "metals and agriculture desk",
    "crypto": "crypto traders",
    "equity": "ordinary news",
    "messy": "crawled debris",
}


class Sizes(msgspec.Struct, frozen=True):
    """Texts that came after the promotion: how many, how many the new model scored, how many it got right."""

    texts: int
    by_new_model: int
    right: int


class Rate(msgspec.Struct, frozen=True):
    """What one service handled, and how many of its events it handles in a second of work."""

    events: int
    per_second: float


class Hostile(msgspec.Struct, frozen=True):
    """Words of one who wants the model wrong: how many were given, how many lie in quarantine, and why."""

    words: int
    held: int
    reasons: list[str]


class Report(msgspec.Struct, frozen=True):
    """What the demo showed. `before` and `after` are over the same texts, set aside before any reader acted.

    `expected` is what the labels say the account must be; `windows` counts the monitor's, a minute and a ticker each.
    """

    seed: int
    account: Account
    expected: dict[str, int]
    windows: int
    before: Accuracy
    after: Accuracy
    gained: int
    lost: int
    p_value: float
    by_part: dict[str, tuple[Accuracy, Accuracy]]
    corrections: int
    confirmations: int
    hostile: Hostile
    ledger: LedgerRow
    ledger_problems: list[str]
    model_before: str
    model_after: str | None
    fresh: Sizes
    texts_per_second: float
    services: dict[str, Rate]
    seconds: float

    @property
    def learned(self) -> bool:
        """A promoted challenger, an unbroken ledger, a gain beyond chance, every text where it belongs, all lies in
        quarantine."""
        return (
            self.model_after is not None
            and not self.ledger_problems
            and self.after.rate > self.before.rate
            and self.after.n >= MIN_MEASURED
            and self.p_value < design.ALPHA
            and all(getattr(self.account, name) == n for name, n in self.expected.items())
            and self.windows > 0
            and self.hostile.held == self.hostile.words > 0
            and self.fresh.by_new_model == self.fresh.texts > 0
        )


def show(report: Report, console: Console, data: Path) -> None:
    """At a glance."""
    a = report.account
    console.rule("[bold]what came in, and where it went")
    console.print(
        f"{a.taken} texts = {a.scored} scored + {a.rejected} rejected + {a.duplicate} duplicates + {a.dead} dead"
        f"   ({report.texts_per_second:.0f} texts/s from raw to row)"
    )
    console.print("  " + ", ".join(f"{reason} {n}" for reason, n in sorted(a.reasons.items())))
    console.print(f"  {report.windows} windows of a minute and a ticker")
    rates = (f"{name} {rate.per_second:,.0f}/s" for name, rate in report.services.items())
    console.print("  events in a second of each service's work: " + ", ".join(rates))
    console.rule("[bold]what the loop learned")
    table = Table("texts nobody corrected", "n", "before", "after", box=None)
    for part, (before, after) in report.by_part.items():
        table.add_row(NAMES[part], str(before.n), f"{before.rate:.0%}", f"{after.rate:.0%}")
    table.add_row(
        "[bold]all", f"[bold]{report.before.n}", f"[bold]{_with(report.before)}", f"[bold]{_with(report.after)}"
    )
    console.print(table)
    console.print(
        f"{report.corrections} corrections, {report.confirmations} confirmations; right now and wrong before: "
        f"{report.gained}, the reverse: {report.lost} (exact McNemar p = {report.p_value:.2g})"
    )
    console.print(f"quarantine holds {report.hostile.held} of {HOSTILE}'s {report.hostile.words} wrong labels:")
    for reason in report.hostile.reasons:
        console.print(f"  {reason}", markup=False)
    console.rule("[bold]what the ledger says")
    chain = "chain verified" if not report.ledger_problems else "; ".join(report.ledger_problems)
    console.print(
        f"epoch {report.ledger.epoch}: {report.ledger.action} {report.ledger.version}, {report.ledger.reason}"
    )
    if shadow := report.ledger.evidence.get("shadow"):
        agreed = f"{shadow['agreement']['rate']:.0%}"
        console.print(f"before that it shadowed the champion on {shadow['texts']} texts, and agreed on {agreed}")
    console.print(
        f"{chain}; scorers went from {report.model_before} to {report.model_after or 'nothing: no promotion'}"
    )
    console.print(
        f"{report.fresh.texts} texts came after that: {report.fresh.by_new_model} scored by the new model, "
        f"{report.fresh.right} of them right"
    )
    sign = "[bold green]the loop learned[/]" if report.learned else "[bold red]the loop did not learn[/]"
    console.rule(f"{sign} in {report.seconds:.0f} s")
    console.print(f"plots: {data}/report.html   figures: {data}/report.json")
    console.print("next: [bold]make up[/], open http://127.0.0.1:8080, and `tickerloop ingest` a file of your own")


def _with(accuracy: Accuracy) -> str:
    return f"{accuracy.rate:.1%} ({accuracy.low:.0%}–{accuracy.high:.0%})"


def page(report: Report) -> str:
    """One HTML file with its plots inside."""
    a = report.account
    facts = (
        f"{a.taken} texts came in: {a.scored} scored, {a.rejected} rejected, {a.duplicate} duplicates, {a.dead} dead "
        f"letters. Readers gave {report.corrections} corrections and {report.confirmations} confirmations. On "
        f"{report.before.n} texts that nobody corrected, accuracy went from {_with(report.before)} to "
        f"{_with(report.after)}. The ledger: {report.ledger.action} of {report.ledger.version}, {report.ledger.reason}."
    )
    return plots.page(
        "tickerloop: the demo",
        f"<h1>The loop {'learned' if report.learned else 'did not learn'}</h1><p>{escape(facts)}</p>"
        f"{_accuracy_plot(report)}{_account_plot(report)}",
    )


def _accuracy_plot(report: Report) -> str:
    from matplotlib.figure import Figure  # only the page needs it

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    rows = [("all", (report.before, report.after)), *((NAMES[p], pair) for p, pair in report.by_part.items())]
    for shift, (which, colour, name) in enumerate(((0, "#9aa5b1", "before"), (1, "#2f6fed", "after"))):
        rates = [pair[which].rate for _, pair in rows]
        errors = [
            [pair[which].rate - pair[which].low for _, pair in rows],
            [pair[which].high - pair[which].rate for _, pair in rows],
        ]
        places = [index + (shift - 0.5) * 0.38 for index in range(len(rows))]
        axes.bar(places, rates, 0.36, yerr=errors, color=colour, label=name, capsize=3)
    axes.set_xticks(range(len(rows)), [f"{name}\n(n = {pair[0].n})" for name, pair in rows])
    axes.set(ylim=(0, 1), ylabel="accuracy, 95 % interval", title="Texts nobody corrected")
    axes.legend()
    return plots.svg(figure)


def _account_plot(report: Report) -> str:
    from matplotlib.figure import Figure  # only the page needs it

    reasons = {"scored": report.account.scored} | dict(sorted(report.account.reasons.items(), key=lambda r: -r[1]))
    figure = Figure(figsize=(9, 0.4 * len(reasons) + 1), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(list(reasons)[::-1], list(reasons.values())[::-1], color="#2f6fed")
    axes.bar_label(bars, padding=3)
    axes.set(xscale="log", title="Where every text went", xlabel="texts")
    return plots.svg(figure)
