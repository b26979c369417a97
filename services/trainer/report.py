"""A model's report: for a glance in the terminal, for a script as JSON, for a longer look as a page."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape
from typing import Final

import msgspec
from rich import markup
from rich.console import Console
from rich.table import Table

from services import plots
from services.score.artifact import Calibration, Group
from services.stream.errors import Rejected
from services.trainer.accuracy import Accuracy, accuracy
from services.trainer.registry import Version

BAR: Final = 40
"""Columns that show 0 to 1."""


class Report(msgspec.Struct, frozen=True):
    """What is known of how good a model is, and how far its confidence can be believed."""

    version: str
    parent: str | None
    champion: bool
    created: int
    """Milliseconds since the epoch."""
    metrics: dict[str, float]
    temperature: float
    calibration: Calibration | None
    """None where nobody measured it: then the model never abstains."""


class _Card(msgspec.Struct, frozen=True):
    """What of a card is reported."""

    metrics: dict[str, float]
    temperature: float
    calibration: Calibration | None = None


def of(model: Version) -> Report:
    """Of a registered model.

    Raises:
        Rejected: its card can't be read, as one of another release.
    """
    try:
        card = msgspec.convert(model.card, _Card)
    except msgspec.ValidationError as error:
        raise Rejected("invalid", f"the card of model {model.version} can't be read: {error}") from None
    return Report(
        model.version, model.parent, model.champion, model.created, card.metrics, card.temperature, card.calibration
    )


def show(report: Report, console: Console) -> None:
    """At a glance."""
    console.print(f"Model {report.version}", markup=False, highlight=False, style="bold")
    table = Table("measure", "value", box=None)
    for name, value in report.metrics.items():
        table.add_row(markup.escape(name), f"{value:.1%}")
    console.print(table)
    for line in _facts(report):
        console.print(line, markup=False, highlight=False)
    if report.calibration is None:
        return
    table = Table("confidence", "accuracy", "texts", "█ accuracy  ┃ confidence", box=None)
    for one in report.calibration.bins:
        table.add_row(f"{one.confidence:.1%}", _with_interval(one), str(one.n), _bar(one))
    console.print(table)


def page(report: Report) -> str:
    """One HTML file with its reliability diagram inside."""
    rows = "".join(f"<tr><td>{escape(name)}<td>{value:.1%}" for name, value in report.metrics.items())
    facts = "".join(f"<p>{escape(line)}</p>" for line in _facts(report))
    plot = _reliability_plot(report.calibration) if report.calibration else ""
    title = f"Model {report.version}"
    return plots.page(title, f"<h1>{escape(title)}</h1><table>{rows}</table>{facts}{plot}")


def _facts(report: Report) -> list[str]:
    made = datetime.fromtimestamp(report.created / 1000, UTC).date().isoformat()
    parent = f", trained on from {report.parent}" if report.parent else ""
    return [f"Registered {made}{parent}{'; the champion' if report.champion else ''}.", *_calibration_facts(report)]


def _calibration_facts(report: Report) -> list[str]:
    found = report.calibration
    if found is None:
        return [f"Its calibration was not measured, at temperature {report.temperature}: it never abstains."]
    return [
        f"Expected calibration error {found.ece:.1%} on {found.texts} held-out texts, at temperature "
        f"{report.temperature}; where each confidence is exactly right, so many texts show {found.ece_by_chance:.1%}.",
        f"It abstains where its greatest probability is below {found.threshold}, to answer {found.coverage:.0%} of "
        f"texts. It answered {found.answered.n / found.texts:.1%} of the held-out ones and was right on "
        f"{_with_interval(found.answered)}; of those that it abstained from, its likeliest label was right on "
        f"{_with_interval(found.abstained)}.",
    ]


def _interval(group: Group) -> Accuracy:
    """Wilson's, where labels that are shared count to the nearest whole text."""
    right = round(group.n * group.accuracy)
    return accuracy([True] * right + [False] * (group.n - right))


def _with_interval(group: Group) -> str:
    interval = _interval(group)
    return f"{group.accuracy:.1%} ({interval.low:.0%}–{interval.high:.0%})"


def _bar(group: Group) -> str:
    cells = ["█"] * round(BAR * group.accuracy)
    cells += [" "] * (BAR - len(cells))
    cells[min(BAR - 1, int(BAR * group.confidence))] = "┃"
    return "".join(cells)


def _reliability_plot(found: Calibration) -> str:
    from matplotlib.figure import Figure  # only the page needs it

    figure = Figure(figsize=(7, 7), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#9aa5b1", linestyle="--", label="calibrated exactly")
    axes.axvline(found.threshold, color="#b5482f", linestyle=":", label=f"abstains below {found.threshold}")
    confidence, accuracy = [one.confidence for one in found.bins], [one.accuracy for one in found.bins]
    intervals = [_interval(one) for one in found.bins]
    errors = [
        [rate - interval.low for rate, interval in zip(accuracy, intervals, strict=True)],
        [interval.high - rate for rate, interval in zip(accuracy, intervals, strict=True)],
    ]
    label = f"about {found.texts // len(found.bins)} texts each, 95 % interval"
    axes.errorbar(confidence, accuracy, yerr=errors, fmt="o-", color="#2f6fed", capsize=3, label=label)
    axes.set(xlim=(0.3, 1.01), ylim=(0, 1.02), xlabel="confidence: the greatest probability", ylabel="accuracy")
    axes.set_title(f"Reliability: expected calibration error {found.ece:.1%}")
    axes.legend(loc="lower right")
    return plots.svg(figure)
