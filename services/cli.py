"""The `tickerloop` command; its help tells the exit codes."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from rich.markup import escape
from rich.table import Table

from services.settings import PREFIX, given, settings_of
from services.stream.errors import TickerloopError
from services.terminal import console, database, notes, settings, show

EXIT_FATAL: Final = 3

ENTRIES: Final = {
    "clean": "services.clean.service",
    "score": "services.score.worker",
    "store": "services.store",
    "feedback": "services.feedback.service",
    "trainer": "services.trainer.service",
    "monitor": "services.monitor.service",
    "gateway": "services.gateway.service",
    "feeds": "services.ingest.feeds",
    "relay": "services.stream.relay",
}
"""Where each service's `serve(context)` is. Imported only in its own process."""


class Main(click.Group):
    """Turns our errors into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except (TickerloopError, TimeoutError) as error:
            notes.print(f"[red]tickerloop:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
            ctx.exit(EXIT_FATAL)


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="tickerloop")
@click.pass_context
def main(context: click.Context) -> None:
    """Streaming financial sentiment that learns from the people who read it.

    \b
    Try:
      tickerloop up                          everything on this machine, until Ctrl-C
      tickerloop ingest headlines.csv        feed it texts (CSV, JSONL, Parquet, lines, gzip, stdin)
      tickerloop status                      what came in and where it went
      open http://127.0.0.1:8080             the live page: read, correct, watch it learn

    Settings come from the environment (TICKERLOOP_DATABASE, TICKERLOOP_BUS, ...); without them, commands talk to
    what `tickerloop up` runs on the data folder (TICKERLOOP_DATA, by default ./var).

    Exit codes: 0 done, 1 a check found something wrong, 2 misuse, 3 it could not be done.
    """
    context.obj = settings


@main.command(context_settings={"auto_envvar_prefix": PREFIX.rstrip("_")})
@click.option("--bus", default="embedded", show_default=True, help="embedded, or kafka://host:port")
@click.option("--database", default="", help="postgresql://… of a server of yours; default: an embedded one")
@click.option("--redis", default="", help="redis://… of a server of yours; default: an embedded Valkey")
@click.option("--data", default="var", show_default=True, help="folder for data and logs")
@click.option("--host", default="127.0.0.1", show_default=True, help="of the gateway; beyond loopback it takes keys")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="port of the gateway")
@click.option("--replicas", multiple=True, metavar="SERVICE=N", help="run several of a service, e.g. score=2")
def up(bus: str, database: str, redis: str, data: str, host: str, port: int, replicas: tuple[str, ...]) -> None:
    """Run everything on this machine until Ctrl-C.

    Each option may be given by its variable instead (TICKERLOOP_BUS, ...), as may every other setting. A service
    that dies is restarted. The first start takes some seconds: it creates the database and builds the int8 model.
    """
    from services.runtime import address
    from services.supervisor.up import Up

    folder = str(Path(data).resolve())
    chosen = {"bus": bus, "database": database, "redis": redis, "data": folder, "host": host, "port": str(port)}
    wanted = settings_of(given() | chosen)
    counts = _counts(replicas)
    if wanted.score_port and counts.get("score", 1) > 1:
        raise click.UsageError("several scorers can't share TICKERLOOP_SCORE_PORT; without it each takes a free port")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: ends a start, however long it would take
    with Up(wanted, lambda line: notes.print(f"[dim]up:[/dim] {escape(line)}", highlight=False), counts) as running:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        url = escape(address(running.settings.host, running.settings.port))
        notes.print(f"tickerloop is up: [bold]{url}[/bold]   logs in {escape(data)}/log   Ctrl-C stops")
        running.watch(stop)


def _counts(replicas: Sequence[str]) -> dict[str, int]:
    parts = [part.partition("=") for part in replicas]
    if not all(count.isdecimal() for _, _, count in parts):
        raise click.UsageError("--replicas takes SERVICE=N, e.g. score=2")
    counts = {name: int(count) for name, _, count in parts}
    unknown = set(counts) - set(ENTRIES)
    if unknown:
        raise click.UsageError(f"--replicas: there is no service {', '.join(sorted(unknown))}")
    if counts.get("gateway", 1) > 1:
        raise click.UsageError("--replicas: two gateways can't listen on one port")
    return counts


@main.command()
@click.argument("service", type=click.Choice(sorted(ENTRIES)))
@click.option("--slot", default=0, show_default=True, help="which replica this is; two live ones may not share a slot")
def run(service: str, slot: int) -> None:
    """Run one service alone; it finds its servers by TICKERLOOP_DATABASE, _BUS and _REDIS."""
    # One thread for numpy's products: they are small, and threads that wait for each other by spinning take cores from
    # everything else. Read when numpy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from services import runtime

    module = import_module(ENTRIES[service])
    sys.exit(runtime.run(module.serve, settings(), service, slot))


@main.command()
def migrate() -> None:
    """Create or update the tables, the topics and the first model; safe to repeat."""
    from services.stream.database import migrate as apply
    from services.trainer.setup import register_bundled

    chosen = settings()
    applied = apply(chosen.database)
    with closing(chosen.open_bus("migrate")) as bus:
        bus.create_topics()
        register_bundled(bus)
    click.echo(f"{applied} migrations applied; topics and model are there")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="for scripts")
@click.option("--wait", is_flag=True, help="wait until every text is accounted for")
def status(as_json: bool, wait: bool) -> None:
    """What came in and where it went, lag by consumer group, the model, each service's health."""
    from services import status as status_

    found = status_.wait_idle(settings(), lambda _: None) if wait else status_.collect(settings())
    if as_json:
        show(found)
        return
    _print_status(found)


def _print_status(found: Any) -> None:
    a = found.account
    console.print(
        f"[bold]{a.taken:,}[/bold] taken = {a.scored:,} scored + {a.rejected:,} rejected + {a.duplicate:,} duplicate"
        f" + {a.dead:,} dead + {found.waiting:,} under way"
    )
    champion = found.champion
    console.print(f"model {champion.version}, epoch {champion.epoch}" if champion else "no model in service")
    if found.training:
        console.print(found.training.words)
    table = Table("group", "topic", "end", "position", "lag", box=None)
    for row in found.lags:
        table.add_row(row.group, row.topic, f"{row.end:,}", f"{row.position:,}", f"{row.lag:,}")
    console.print(table)
    table = Table("service", "slot", "process", "state", "model", "epoch", box=None)
    for service in found.services:
        state = service.state if service.alive else "[red]silent[/red]"
        model, epoch = (str(service.detail.get(key, "")) for key in ("model", "epoch"))
        table.add_row(service.name, str(service.slot), str(service.pid), state, model, epoch)
    console.print(table)
    for service in found.services:
        if refused := service.detail.get("refused"):
            why = f"the model of epoch {refused['epoch']}: {refused['reason']}"
            console.print(f"[red]{service.name} {service.slot} refuses[/red] {escape(why)}")
        shadow = service.detail.get("shadow")
        if shadow and shadow["state"] == "refused":
            why = f"the shadow {shadow['model']}: {shadow['reason']}"
            console.print(f"[yellow]{service.name} {service.slot} can't load[/yellow] {escape(why)}")
    for topic, count in found.dead_letters.items():
        if count:
            console.print(f"[yellow]{count:,} dead letters in {topic}[/yellow]; look: tickerloop dlq show {topic}")
    for group, reason in found.trips.items():
        console.print(f"[red]{group} has tripped:[/red] {escape(reason)}; when mended: tickerloop dlq resume {group}")


@main.command()
@click.argument("service", type=click.Choice(sorted(ENTRIES)))
@click.option("--slot", default=0, show_default=True)
def health(service: str, slot: int) -> None:
    """Exit 0 if SERVICE has beaten lately; for container health checks."""
    from services.status import services

    with database() as cursor:
        found = [s for s in services(cursor) if (s.name, s.slot) == (service, slot)]
    click.echo(found[0].state if found else "never seen")
    sys.exit(not (found and found[0].alive and found[0].state != "starting"))


@main.group()
def dlq() -> None:
    """Dead letters: events that could not be processed, as they came, with the reason."""


@dlq.command("list")
@click.option("--json", "as_json", is_flag=True, help="for scripts")
def dlq_list(as_json: bool) -> None:
    """Count dead letters by topic and reason."""
    from collections import Counter

    from services import deadletters

    chosen = settings()
    counts: Counter[tuple[str, str]] = Counter()
    with closing(chosen.open_bus("dlq")) as bus:
        for topic in chosen.topics():
            if topic.name.endswith(".dead"):
                for record in deadletters.letters(bus, topic.name):
                    counts[topic.name, deadletters.describe(record).reason] += 1
    if as_json:
        show([{"topic": topic, "reason": reason, "count": n} for (topic, reason), n in sorted(counts.items())])
        return
    table = Table("topic", "reason", "count", box=None)
    for (name, reason), n in sorted(counts.items()):
        table.add_row(name, reason, f"{n:,}")
    console.print(table if counts else "no dead letters")


@dlq.command("show")
@click.argument("topic")
@click.option("--limit", default=20, show_default=True)
@click.option("--reason", default=None, help="only these")
def dlq_show(topic: str, limit: int, reason: str | None) -> None:
    """Show dead letters of TOPIC as JSON lines: reason, detail, origin, and the event as it came."""
    from itertools import islice

    from services import deadletters

    chosen = settings()
    with closing(chosen.open_bus("dlq")) as bus:
        found = map(deadletters.describe, deadletters.letters(bus, deadletters.dead_topic(chosen, topic)))
        for letter in islice((x for x in found if reason is None or x.reason == reason), limit):
            click.echo(msgspec.json.encode(letter).decode())


@dlq.command("replay")
@click.argument("topic")
@click.option("--reason", default=None, help="only these")
@click.option("--again", is_flag=True, help="also those that were replayed before")
def dlq_replay(topic: str, reason: str | None, again: bool) -> None:
    """Send dead letters of TOPIC back to the topic they came from, each once."""
    from services import deadletters

    chosen = settings()
    with closing(chosen.open_bus("dlq")) as bus:
        count = deadletters.replay(bus, deadletters.dead_topic(chosen, topic), reason, again)
    click.echo(f"{count:,} replayed")


@dlq.command("resume")
@click.argument("group")
def dlq_resume(group: str) -> None:
    """Clear the trip of GROUP, once the cause of its failures is mended."""
    from services import deadletters

    click.echo("cleared; the service starts again" if deadletters.resume(settings(), group) else "nothing was tripped")


@main.command()
@click.argument("group")
@click.option("--topic", required=True)
@click.option("--from", "start", required=True, help="oldest, newest, offset:N, or a time (RFC 3339 or epoch ms)")
def replay(group: str, topic: str, start: str) -> None:
    """Move consumer group GROUP on TOPIC, to read again or to skip. Stop its service first on Kafka.

    What is read again takes effect again: rows that are there stay as they are, but the counts of `status` and the
    windows count it once more. The monitor on Kafka keeps its own positions and can't be moved.
    """
    from services import deadletters

    chosen = settings()
    deadletters.check_reads(chosen, group, topic)
    if start.startswith("offset:") and not start.removeprefix("offset:").isdecimal():
        raise click.UsageError(f"--from offset:N takes a number, not {start!r}")
    with closing(chosen.open_bus("replay")) as bus:
        goal = deadletters.positions(bus, topic, start)
        bus.seek(group, goal)
    for place, offset in sorted(goal.items()):
        click.echo(f"{place.topic}[{place.partition}] → {offset}")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="for scripts")
def doctor(as_json: bool) -> None:
    """What this machine has, what is missing, and how to get it. Exit 1 when something needed is missing."""
    from services.doctor import examine

    checks = examine()
    if as_json:
        show(checks)
    else:
        for check in checks:
            sign = (
                "[green]ok[/green]  " if check.ok else "[red]needs[/red]" if check.needed else "[yellow]no[/yellow]  "
            )
            remedy = f" → {check.remedy}" if check.remedy else ""
            console.print(f"{sign} {check.name}: {escape(check.finding + remedy)}")
    sys.exit(any(check.needed and not check.ok for check in checks))


@main.command()
@click.option("--seed", default=0, show_default=True)
@click.option("--data", default="var/demo", show_default=True, help="folder of the demo; emptied first")
def demo(seed: int, data: str) -> None:
    """Show the whole loop learning, on texts written for this project, in under three minutes."""
    from services.demo.run import main as run_demo

    sys.exit(run_demo(seed, Path(data)))


def _mount() -> None:
    from services.erasure.cli import erase
    from services.feedback.cli import annotators, quarantine
    from services.ingest.cli import ingest
    from services.keys.cli import keys
    from services.labelstudio.cli import labels
    from services.lineage.cli import lineage
    from services.trainer.models_cli import models
    from services.trainer.train_cli import train

    for command in (ingest, keys, models, train, annotators, quarantine, labels, erase, lineage):
        main.add_command(command)


_mount()

if __name__ == "__main__":
    main()
