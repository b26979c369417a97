"""Commands of `tickerloop models` about what stands between a challenger and service, and about the ledger's export."""

from __future__ import annotations

from typing import Final

import click

from services.terminal import database, decision, promoter, settings, show


@click.command("standing")
def standing() -> None:
    """The challenger under way with its evidence, a pin, a cool-down, and the champion against the one before, as JSON.

    \b
    A challenger that passed the gate is
      passed               about to shadow the champion
      shadowing            until it has answered TICKERLOOP_SHADOW_TEXTS texts
      awaiting approval    where TICKERLOOP_APPROVE is set; then `models approve` or `models reject`
    """
    from services.trainer import standing as standing_

    chosen = settings()
    with database() as cursor:
        show(standing_.now(cursor, chosen.cooldown_s))


@click.command("approve")
@click.argument("version")
@decision
def approve(version: str, reason: str, actor: str, expected_epoch: int | None) -> None:
    """Promote the challenger VERSION, which awaits approval; prepared as every promotion is."""
    with promoter() as ready:
        change = ready.approve(version, actor=actor, reason=reason, expected_epoch=expected_epoch)
    click.echo(f"epoch {change.epoch}: {change.version} (was {change.previous})")


@click.command("reject")
@click.argument("version")
@decision
def reject(version: str, reason: str, actor: str, expected_epoch: int | None) -> None:
    """Give up the challenger VERSION, which passed the gate, wherever it stands. Its shadow ends."""
    with promoter() as ready:
        change = ready.reject(version, actor=actor, reason=reason, expected_epoch=expected_epoch)
    click.echo(f"epoch {change.epoch}: {change.version} is withdrawn; {change.previous} stays")


@click.command("pin")
@decision
def pin(reason: str, actor: str, expected_epoch: int | None) -> None:
    """Keep the champion: until `unpin` neither the gate nor the watch changes it. People may; then the next is kept.

    Challengers are still trained, judged and shadow it; one that did well waits.
    """
    with promoter() as ready:
        row = ready.pin(actor=actor, reason=reason, expected_epoch=expected_epoch)
    click.echo(f"epoch {row.epoch}: {row.version} is pinned")


@click.command("unpin")
@decision
def unpin(reason: str, actor: str, expected_epoch: int | None) -> None:
    """Let the gate and the watch change the champion again."""
    with promoter() as ready:
        row = ready.unpin(actor=actor, reason=reason, expected_epoch=expected_epoch)
    click.echo(f"epoch {row.epoch}: {row.version} is no longer pinned")


@click.command("export-ledger")
def export_ledger() -> None:
    """Every decision as JSON lines, oldest first: `tickerloop models verify --file` checks them anywhere."""
    from services.trainer import export, registry

    with database() as cursor:
        for row in registry.ledger(cursor):
            click.echo(export.line(row))


COMMANDS: Final = (standing, approve, reject, pin, unpin, export_ledger)
