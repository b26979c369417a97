"""What came of each training run, and the learning curve that they make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from psycopg2.extensions import cursor as Cursor

from services import plots
from services.trainer.accuracy import Accuracy

_OUTCOME: Final = ("version", "method", "learned_from", "reason", "error")
TEXT: Final = "#7a8586"
"""Readable on a light page and on a dark one."""


class Run(msgspec.Struct, frozen=True):
    """One run. What there is no outcome of, is none. Times are ms since the epoch."""

    run: int
    trigger: str
    state: str
    started: int
    finished: int | None
    promoted: bool
    """Its challenger came into service, at once or after its shadow."""
    version: str | None = None
    method: str | None = None
    learned_from: int | None = None
    """Labels that people gave."""
    reason: str | None = None
    error: str | None = None
    champion: Accuracy | None = None
    """Of both on the same held-out texts."""
    challenger: Accuracy | None = None


def runs(cursor: Cursor, limit: int) -> list[Run]:
    """The newest so many, newest first."""
    cursor.execute(
        "SELECT run, trigger, state, started, finished, EXISTS (SELECT FROM ledger WHERE action = 'promote'"
        " AND version = detail->>'version' AND epoch >= (detail->>'epoch')::bigint), detail"
        " FROM training_run ORDER BY run DESC LIMIT %s",
        (limit,),
    )
    return [_run(*row) for row in cursor.fetchall()]


def _run(
    run: int,
    trigger: str,
    state: str,
    started: int,
    finished: int | None,
    promoted: bool,
    detail: dict[str, object],
) -> Run:
    told: dict[str, object] = {name: detail[name] for name in _OUTCOME if name in detail}
    both = msgspec.convert(detail.get("verdict", {}), dict[str, object])
    told |= {side: both[side] for side in ("champion", "challenger") if side in both}
    told |= {"run": run, "trigger": trigger, "state": state, "started": started, "finished": finished}
    return msgspec.convert(told | {"promoted": promoted}, Run)


def curve(found: Sequence[Run]) -> str:
    """The plot, an SVG: accuracy on held-out texts by the labels that people had given."""
    from matplotlib.figure import Figure  # only who looks waits for it

    figure = Figure(figsize=(9, 4), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    judged = sorted((r for r in found if r.champion and r.champion.n and r.challenger), key=lambda r: r.run)
    sides = (
        ("the model in service", [(r, r.champion) for r in judged], "o-", "#7f8c95", "#7f8c95"),
        ("challenger, promoted", [(r, r.challenger) for r in judged if r.promoted], "o", "#2a9d76", "#2a9d76"),
        ("challenger, not promoted", [(r, r.challenger) for r in judged if not r.promoted], "o", "#d0714f", "none"),
    )
    for label, points, form, colour, fill in (side for side in sides if side[1]):
        rates = [a for _, a in points if a]
        axes.errorbar(
            [r.learned_from or 0 for r, _ in points], [a.rate for a in rates],
            yerr=[[a.rate - a.low for a in rates], [a.high - a.rate for a in rates]],
            fmt=form, color=colour, markerfacecolor=fill, capsize=3, label=label, linewidth=1.2,
        )  # fmt: skip
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.set_xlim(0, 1.1 * max((r.learned_from or 0 for r in judged), default=0) + 1)
    axes.set(xlabel="labels that people had given", ylabel="right, on held-out texts, with 95 % interval")
    axes.grid(visible=True, color="#80808033")
    for part in (axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels(), *axes.get_yticklabels()):
        part.set_color(TEXT)
    axes.tick_params(colors=TEXT)
    for spine in axes.spines.values():
        spine.set_color("#80808055")
    if judged:
        axes.legend(loc="upper left", frameon=False, labelcolor=TEXT)
    return plots.svg(figure)
