"""The `tickerloop` command; its help tells the exit codes."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Final, get_args

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.settings import PREFIX, Method, given, settings_of
from services.stream.errors import TickerloopError
from services.terminal import database, decision, promoter, settings, show

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

console = Console()
notes = Console(stderr=True)


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


@main.group()
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


@main.group(invoke_without_command=True)
@click.option("--recipe", type=click.Choice(["loop", "bundled"]), default="loop", show_default=True)
@click.option("--data", type=click.Path(exists=True, file_okay=False), help="bundled: folder of labelled sets")
@click.option("--encoder", metavar="NAME", help="loop: another encoder, a folder or a model that Hugging Face has")
@click.option(
    "--base", type=click.Path(exists=True, dir_okay=False), help="loop: labelled texts of yours to replay (CSV, JSONL)"
)
@click.option("--method", type=click.Choice(get_args(Method)), help="loop: what changes; default: TICKERLOOP_METHOD")
@click.option("--search", "trials", type=click.IntRange(2, 36), metavar="N", help="loop: first try N ways of tuning")
@click.option("--dry-run", is_flag=True, help="loop: up to the verdict, and no further")
@click.pass_context
def train(
    context: click.Context,
    recipe: str,
    data: str | None,
    encoder: str | None,
    base: str | None,
    method: Method | None,
    trials: int | None,
    dry_run: bool,
) -> None:
    """Train now: `loop` learns from the corrections and lets the gate decide, `bundled` makes the shipped model.

    What passes the gate is promoted by the trainer once it did well as a shadow (`tickerloop models standing`). After a
    --dry-run nothing comes of the verdict. It is in the ledger all the same, and counts as a look at the held-out
    texts, since it tells what they say: whoever tries until one passes is to need more evidence.

    --method head fits the head alone, in seconds; lora tunes the champion's encoder too, by a small change to each of
    its matrices; full tunes all of its weights. These two take minutes, at low priority, and `tickerloop status` tells
    how far they are. Killed and started again on the same corrections, they go on from their last checkpoint.
    --search tries N ways first, by successive halving over rate, rank and replay, and takes what is best on texts that
    it sets apart from those to be learned; edited copies of the texts are learned, too, where that shows a gain. It
    takes about as long as N runs.

    With --encoder, a challenger is made on another encoder (safetensors, with a fast tokenizer): from the corrections
    so far, the shipped anchor set and the champion's own answers. `tickerloop models promote` puts it in service where
    the gate had too little to judge it by, as in a language that nobody has corrected yet.

    With --base, labelled texts of yours are replayed beside the shipped anchor set, so that what they stand for isn't
    forgotten: columns (or keys) text and label, which is negative, neutral or positive; at most 5,000 rows.
    """
    if context.invoked_subcommand:
        return
    if recipe == "bundled":
        if data is None:
            raise click.UsageError("--recipe bundled needs --data DIR")
        import_module("services.trainer.recipe").main(Path(data))
        return
    from services.trainer import base as bases
    from services.trainer import evaluations, observed, triggers
    from services.trainer.beside import low_priority
    from services.trainer.run import train_once

    low_priority()

    def say(line: str) -> None:
        notes.print(line, highlight=False)

    replayed = bases.read(base) if base else bases.NO_BASE
    with database() as cursor:
        evaluations.record(cursor, triggers.by_command(observed.read(cursor)))
    outcome = train_once(
        settings(),
        "command",
        say,
        encoder=encoder,
        base=replayed,
        method=method,
        trials=trials or 0,
        dry_run=dry_run,
    )
    show(outcome)


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
    from services.trainer.cli import COMMANDS
    from services.trainer.train_cli import manifest, why

    for command in (why, manifest):
        train.add_command(command)
    for command in COMMANDS:
        models.add_command(command)
    for command in (ingest, keys, annotators, quarantine, labels, erase, lineage):
        main.add_command(command)


_mount()

if __name__ == "__main__":
    main()
