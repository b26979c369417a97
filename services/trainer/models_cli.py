"""`tickerloop models`: the registry, what becomes champion, the ledger."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import IO

import click
import msgspec
from rich.markup import escape
from rich.table import Table

from services.terminal import console, database, decision, notes, promoter, settings, show


@click.group()
def models() -> None:
    """The registry and the promotion ledger."""


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="for scripts")
def models_list(as_json: bool) -> None:
    """All models, newest first; * marks the champion, ~ what shadows it."""
    from services.trainer import registry

    with database() as cursor:
        found = registry.versions(cursor)
    if as_json:
        show(found)
        return
    table = Table("", "version", "parent", "metrics", box=None)
    for version in found:
        metrics = json.dumps(version.card.get("metrics", {}))
        mark = "*" if version.champion else "~" if version.shadow else ""
        table.add_row(mark, version.version, version.parent or "", metrics[:90])
    console.print(table)


@models.command("show")
@click.argument("version")
def models_show(version: str) -> None:
    """One model's card, how it compares with the champion that it shadows or shadowed, and what was decided about it,
    with the evidence, as JSON."""
    from services.trainer import registry
    from services.trainer.comparison import compared

    with database() as cursor:
        model = compared(cursor, registry.registered(cursor, version))
        decisions = [row for row in registry.ledger(cursor) if row.version == version]
    show(msgspec.to_builtins(model) | {"decisions": decisions})


@models.command("report")
@click.argument("version")
@click.option("--json", "as_json", is_flag=True, help="for scripts")
@click.option("--html", type=click.Path(dir_okay=False, writable=True), help="write a page with its diagram there")
def models_report(version: str, as_json: bool, html: str | None) -> None:
    """How good a model is, how far its confidence can be believed, and when it abstains."""
    from services.trainer import registry
    from services.trainer import report as reports

    with database() as cursor:
        report = reports.of(registry.registered(cursor, version))
    if html is not None:
        Path(html).write_text(reports.page(report), encoding="utf-8")
        notes.print(f"[dim]written to {escape(html)}[/dim]", highlight=False, soft_wrap=True)
    if as_json:
        show(report)
    else:
        reports.show(report, console)


@models.command("add")
@click.argument("name")
@click.option("--label-map", metavar="JSON", help="what its labels count as, as JSON or in a file")
@click.option("--languages", default="", help="what it reads, e.g. en,zh: texts in others are marked; default: any")
def models_add(name: str, label_map: str | None, languages: str) -> None:
    """Register a sequence classifier: a folder, or a model that Hugging Face has (safetensors, a fast tokenizer).

    Labels that say negative, neutral or positive, bearish or bullish, are understood; others need a map:

    \b
      --label-map '{"LABEL_0": "negative", "LABEL_1": "neutral", "LABEL_2": "positive"}'

    Several may count as one: their probabilities add. It is not put in service: `tickerloop models promote` does that.
    """
    from services.clean.language import CODES
    from services.trainer.adopt import add

    codes = [code for code in languages.split(",") if code]
    if unknown := set(codes) - CODES:
        known = ", ".join(sorted(CODES))
        raise click.UsageError(f"--languages: no text is found to be in {', '.join(sorted(unknown))}; it takes {known}")
    model = add(settings(), name, _label_map(label_map), codes, lambda line: notes.print(line, highlight=False))
    click.echo(f"model {model.card.version} is registered; tickerloop models promote {model.card.version} --reason …")


def _label_map(given: str | None) -> dict[str, str]:
    """Of a JSON object, or of a file that holds one."""
    if given is None:
        return {}
    try:
        content = given if given.lstrip().startswith("{") else Path(given).read_text(encoding="utf-8")
        return msgspec.json.decode(content, type=dict[str, str])
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise click.UsageError(
            f"--label-map takes a JSON object of labels, or a file that holds one: {error}"
        ) from None


@models.command("promote")
@click.argument("version")
@decision
def models_promote(version: str, reason: str, actor: str, expected_epoch: int | None) -> None:
    """Make VERSION the champion by hand, once every live scorer has loaded it and proved that it can serve it."""
    with promoter() as ready:
        change = ready.promote(version, actor=actor, reason=reason, evidence={}, expected_epoch=expected_epoch)
    click.echo(f"epoch {change.epoch}: {change.version} (was {change.previous})")


@models.command("rollback")
@decision
def models_rollback(reason: str, actor: str, expected_epoch: int | None) -> None:
    """Go back to the champion before; prepared as a promotion is."""
    with promoter() as ready:
        change = ready.rollback(actor=actor, reason=reason, expected_epoch=expected_epoch)
    click.echo(f"epoch {change.epoch}: {change.version} (was {change.previous})")


@models.command("shadow")
@click.argument("version")
@decision
def models_shadow(version: str, reason: str, actor: str, expected_epoch: int | None) -> None:
    """Have VERSION score a sample of the stream beside the champion, for `models show VERSION` to compare the two.

    What it says goes to the topic `predictions.shadow` and counts for nothing. It takes at most TICKERLOOP_SHADOW_SHARE
    of each scorer's time. It ends by `models unshadow`, by another shadow, and with any change of the champion.
    """
    with promoter() as ready:
        change = ready.shadow(version, actor=actor, reason=reason, expected_epoch=expected_epoch)
    click.echo(f"epoch {change.epoch}: {change.version} shadows {change.previous}")


@models.command("unshadow")
@decision
def models_unshadow(reason: str, actor: str, expected_epoch: int | None) -> None:
    """End the shadow; what it said is kept."""
    with promoter() as ready:
        change = ready.unshadow(actor=actor, reason=reason, expected_epoch=expected_epoch)
    click.echo(f"epoch {change.epoch}: {change.version} no longer shadows {change.previous}")


@models.command("standing")
def models_standing() -> None:
    """The challenger under way with its evidence, a pin, a cool-down, and the champion against the one before, as JSON.

    \b
    A challenger that passed the gate is
      passed               about to shadow the champion
      shadowing            until it has answered TICKERLOOP_SHADOW_TEXTS texts
      awaiting approval    where TICKERLOOP_APPROVE is set; then `models approve` or `models reject`
    """
    from services.trainer import standing

    chosen = settings()
    with database() as cursor:
        show(standing.now(cursor, chosen.cooldown_s))


@models.command("approve")
@click.argument("version")
@decision
def models_approve(version: str, reason: str, actor: str, expected_epoch: int | None) -> None:
    """Promote the challenger VERSION, which awaits approval; prepared as every promotion is."""
    with promoter() as ready:
        change = ready.approve(version, actor=actor, reason=reason, expected_epoch=expected_epoch)
    click.echo(f"epoch {change.epoch}: {change.version} (was {change.previous})")


@models.command("reject")
@click.argument("version")
@decision
def models_reject(version: str, reason: str, actor: str, expected_epoch: int | None) -> None:
    """Give up the challenger VERSION, which passed the gate, wherever it stands. Its shadow ends."""
    with promoter() as ready:
        change = ready.reject(version, actor=actor, reason=reason, expected_epoch=expected_epoch)
    click.echo(f"epoch {change.epoch}: {change.version} is withdrawn; {change.previous} stays")


@models.command("pin")
@decision
def models_pin(reason: str, actor: str, expected_epoch: int | None) -> None:
    """Keep the champion: until `unpin` neither the gate nor the watch changes it. People may; then the next is kept.

    Challengers are still trained, judged and shadow it; one that did well waits.
    """
    with promoter() as ready:
        row = ready.pin(actor=actor, reason=reason, expected_epoch=expected_epoch)
    click.echo(f"epoch {row.epoch}: {row.version} is pinned")


@models.command("unpin")
@decision
def models_unpin(reason: str, actor: str, expected_epoch: int | None) -> None:
    """Let the gate and the watch change the champion again."""
    with promoter() as ready:
        row = ready.unpin(actor=actor, reason=reason, expected_epoch=expected_epoch)
    click.echo(f"epoch {row.epoch}: {row.version} is no longer pinned")


@models.command("ledger")
def models_ledger() -> None:
    """Every decision, for and against, oldest first, as JSON."""
    from services.trainer import registry

    with database() as cursor:
        show(registry.ledger(cursor))


@models.command("verify")
@click.option("--file", type=click.File(encoding="utf-8"), help="an export, checked without any server; - reads stdin")
def models_verify(file: IO[str] | None) -> None:
    """Check the ledger's hash chain, and the ledger against the topic `models`; or what `export-ledger` wrote.

    Names every row that was changed, added or removed. Exit 1 if any was. That the last rows of a file are missing its
    chain can't tell: hold the hash of the last against one that was noted elsewhere.
    """
    from services.trainer import export, registry

    if file is not None:
        rows, problems = export.read(file)
    else:
        with closing(settings().open_bus("models")) as bus:
            announced = registry.announced(bus)
        with database() as cursor:
            rows = registry.ledger(cursor)
        problems = registry.verify(rows, announced)
    for problem in problems:
        click.echo(problem)
    click.echo(f"{len(rows)} rows, {len(problems)} problems")
    if file is not None and rows:
        click.echo(f"the last has the hash {rows[-1].hash}")
    sys.exit(bool(problems))


@models.command("export-ledger")
def models_export_ledger() -> None:
    """Every decision as JSON lines, oldest first: `tickerloop models verify --file` checks them anywhere."""
    from services.trainer import export, registry

    with database() as cursor:
        for row in registry.ledger(cursor):
            click.echo(export.line(row))
