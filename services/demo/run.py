"""The demo, top to bottom: start everything, feed the stream, let readers correct, see the loop promote, measure.

It fails when the loop breaks: a gain is only reported if a promoted challenger gives it on texts nobody touched.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from services import keys
from services import status as status_
from services.demo import readers
from services.demo.readers import Gateway, Labelled
from services.demo.report import Hostile, Rate, Report, Sizes, page, show
from services.keys import Role
from services.runtime import now_ms
from services.settings import PREFIX, Settings
from services.stream.database import transaction
from services.stream.errors import Fatal
from services.supervisor.up import Up
from services.trainer import gate, registry
from services.trainer.accuracy import accuracy

RETRAIN_AFTER: Final = 300
"""Labels to learn from that start a training: most of what the readers give, so that one run sees enough."""
SHADOW_TEXTS: Final = 100
"""Nothing streams while the challenger shadows, so they are stored ones: two seconds, where the default's wait for live
texts would take ten minutes."""
LATE_STORIES: Final = 60
"""Stories that come only after the promotion, to be seen scored by the new model."""
START_S: Final = 90.0
TRAIN_S: Final = 200.0
"""A loaded machine may take so long; an idle one takes half a minute."""


def main(seed: int, data: Path) -> int:
    """Run it; 0 when the loop learned, 1 when it didn't.

    Raises:
        Fatal: it broke off.
    """
    console = Console()
    began = time.monotonic()
    settings = Settings(
        database="",
        data=str(data.resolve()),
        models=os.environ.get(PREFIX + "MODELS", ""),
        port=0,
        retrain_after=RETRAIN_AFTER,
        retrain_below=0,  # one run, with all that the readers give
        shadow_texts=SHADOW_TEXTS,
        shadow_s=0,
        partitions=2,
    )
    try:
        with Up(settings, lambda line: console.print(f"[dim]{line}[/dim]"), fresh=True) as up, up.watched():
            report = _loop(up.settings, seed, console.print, began)
    except (TimeoutError, httpx.HTTPError, subprocess.CalledProcessError) as error:
        raise Fatal(f"the demo broke off: {error} (its logs: {data}/log)") from error
    (data / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    (data / "report.html").write_text(page(report), encoding="utf-8")
    show(report, console, data)
    return 0 if report.learned else 1


def _loop(settings: Settings, seed: int, say: Callable[[str], None], began: float) -> Report:
    known = readers.labels()
    aside = readers.set_aside(known, seed)
    late = frozenset(random.Random(seed).sample(sorted(aside), LATE_STORIES))  # noqa: S311 (a simulation)
    first, after = readers.raw_lines(late)
    gateway = Gateway(f"http://{settings.host}:{settings.port}", _keys(settings))
    _ready(gateway)

    say("feeding the stream: news, desk chatter, tweets, copies, debris, private data, other languages, hostile input")
    fed = time.monotonic()
    ingest(settings, first)
    status = status_.wait_idle(settings, lambda _: None, TRAIN_S)
    fed = time.monotonic() - fed

    before = list(gateway.predictions())
    say(f"{status.account.scored} texts scored by model {_model(before)}; readers look at them")
    lies = readers.lie(gateway, before, known, aside, seed)
    say(f"{readers.HOSTILE}, whom nobody knows yet, gives {lies} labels in a hurry, and all of them are wrong")
    corrections, confirmations = readers.read(gateway, before, known, aside, seed)
    say(f"{corrections} corrections and {confirmations} confirmations given over REST; the trainer takes over")
    ledger = _decided(settings)
    champion = _swapped(gateway, ledger.epoch) if ledger.action == "promote" else None

    measured = [p for p in before if _measured(p, known, aside)]
    was = [p["label"] for p in measured]
    now = [score["label"] for score in _scored(gateway, [p["text"] for p in measured])]
    truth = [known[p["external_id"]].label for p in measured]
    ingest(settings, after)
    status = status_.wait_idle(settings, lambda _: None, TRAIN_S)
    fresh = [p for p in gateway.predictions() if known[p["external_id"]].story in late]
    problems = _verify(settings)
    right = [np.array([a == b for a, b in zip(labels, truth, strict=True)]) for labels in (was, now)]
    parts = [known[p["external_id"]].part for p in measured]
    return Report(
        seed=seed,
        account=status.account,
        expected=readers.expected(known),
        windows=_windows(settings),
        before=accuracy(right[0]),
        after=accuracy(right[1]),
        gained=int(np.sum(right[1] & ~right[0])),
        lost=int(np.sum(right[0] & ~right[1])),
        p_value=gate.mcnemar(int(np.sum(right[1] & ~right[0])), int(np.sum(right[0] & ~right[1]))),
        by_part={
            part: (
                accuracy(right[0][[q == part for q in parts]]),
                accuracy(right[1][[q == part for q in parts]]),
            )
            for part in sorted(set(parts))
        },
        corrections=corrections,
        confirmations=confirmations,
        hostile=_held(gateway, lies),
        ledger=ledger,
        ledger_problems=problems,
        model_before=_model(before),
        model_after=champion,
        fresh=Sizes(
            len(fresh),
            sum(p["epoch"] >= ledger.epoch for p in fresh),
            sum(p["label"] == known[p["external_id"]].label for p in fresh),
        ),
        texts_per_second=round(status.account.taken / fed, 1),
        services=_rates(gateway.metrics()),
        seconds=round(time.monotonic() - began, 1),
    )


def ingest(settings: Settings, lines: str) -> None:
    """Feed JSON lines by the command a user would use."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        file.write(lines)
        file.flush()
        # Not the file's own name, from which ids are derived and so who is held out: a seed is to mean one holdout.
        command = [sys.executable, "-m", "services.cli", "ingest", file.name, "--id-field", "id", "--source", "demo"]
        environment = os.environ | settings.environment()
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 (our own)


def _keys(settings: Settings) -> dict[str, str]:
    """An operator's for each reader of the desk, and an annotator's for the hostile one."""
    roles: dict[str, Role] = {**dict.fromkeys(readers.READERS, "operator"), readers.HOSTILE: "annotator"}
    with closing(settings.connector("demo")()) as connection, transaction(connection), connection.cursor() as cursor:
        return {name: keys.create(cursor, name, role, now_ms())[1] for name, role in roles.items()}


def _ready(gateway: Gateway) -> None:
    """Wait until it scores, and knows the keys."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            gateway.score(["warm"])
            if gateway.speaker() is not None:
                return
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def _held(gateway: Gateway, lies: int) -> Hostile:
    findings = [row for row in gateway.quarantine() if row["annotator"] == readers.HOSTILE]
    words = {word for row in findings for word in row["words"]}
    return Hostile(lies, len(words), [f"{row['reason']}: {row['detail']}" for row in findings])


def _decided(settings: Settings) -> registry.LedgerRow:
    deadline = time.monotonic() + TRAIN_S
    while time.monotonic() < deadline:
        rows = _ledger(settings)
        if rows[-1].actor == registry.GATE and rows[-1].action in ("promote", "refuse", "withdraw"):
            return rows[-1]
        time.sleep(0.2)
    raise TimeoutError("the trainer has not decided in time; look at the log of trainer.0")


def _rates(metrics: str) -> dict[str, Rate]:
    found: dict[str, dict[str, float]] = {"tickerloop_events_total": {}, "tickerloop_step_seconds_sum": {}}
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            if sample.name in found:
                found[sample.name][sample.labels["group"]] = sample.value
    events, seconds = found.values()
    return {group: Rate(int(n), round(n / seconds[group], 1)) for group, n in sorted(events.items()) if n}


def _ledger(settings: Settings) -> list[registry.LedgerRow]:
    with closing(settings.connector("demo")()) as connection, transaction(connection), connection.cursor() as cursor:
        return registry.ledger(cursor)


def _windows(settings: Settings) -> int:
    with closing(settings.connector("demo")()) as connection, transaction(connection), connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM window_minute")
        (count,) = cursor.fetchone() or (0,)
        return int(count)


def _verify(settings: Settings) -> list[str]:
    with closing(settings.open_bus("demo")) as bus:
        return registry.verify(_ledger(settings), registry.announced(bus))


def _swapped(gateway: Gateway, epoch: int) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        answer = gateway.score(["warm"])
        if answer["epoch"] >= epoch:
            return str(answer["model"])
        time.sleep(0.1)
    raise TimeoutError("the scorers have not swapped in time; look at the log of score.0")


def _scored(gateway: Gateway, texts: Sequence[str]) -> list[dict[str, Any]]:
    return [score for start in range(0, len(texts), 64) for score in gateway.score(texts[start : start + 64])["scores"]]


def _measured(prediction: Mapping[str, Any], known: Mapping[str, Labelled], aside: frozenset[str]) -> bool:
    label = known.get(prediction.get("external_id") or "")
    return label is not None and label.label is not None and label.story in aside


def _model(predictions: Sequence[Mapping[str, Any]]) -> str:
    return str(predictions[0]["model"])
