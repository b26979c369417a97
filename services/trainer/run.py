"""One training run, from the queue to the ledger; reads top to bottom.

Never two at once: a run holds an advisory lock on its own session and so dies with its process.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Final

import msgspec
import numpy as np
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from services.runtime import now_ms
from services.score import artifact
from services.score.artifact import Model
from services.score.base import EXPORT, Encoding, find
from services.score.engine import Engine, Runtime, embed, open_engine, open_runtime
from services.score.head import Head
from services.settings import Method, Settings
from services.stream.bus import Bus, Outgoing
from services.stream.database import transaction
from services.stream.errors import Misconfigured
from services.trainer import (
    assembly,
    calibration,
    checkpoint,
    dataset,
    design,
    evidence,
    gate,
    leaks,
    manifest,
    registry,
    standing,
)
from services.trainer.base import NO_BASE, Base
from services.trainer.dataset import Dataset
from services.trainer.evidence import Side
from services.trainer.finetune import finetuned, tunable
from services.trainer.gate import Verdict
from services.trainer.head import FRESH, fit
from services.trainer.lesson import Lesson, lesson
from services.trainer.progress import LOCK, Report, Stage
from services.trainer.promotion import Promoter, Unprepared
from services.trainer.registry import LedgerRow

TRANSFER: Final = FRESH._replace(epochs=40, batch=64)
"""For a head over another encoder, which learns from hundreds of texts, not from ten thousand."""
SEED: Final = 1

ENDED: Final = {"promote": "promoted", "pass": "passed", "refuse": "refused", "dry-run": "dry run"}
"""States of a run that came to its end, by what it decided."""

Say = Callable[[str], None]


class Outcome(msgspec.Struct, frozen=True):
    """What a run came to. `epoch` is its ledger row; `version` the challenger's."""

    version: str
    action: str
    """promote; pass, where something comes before that; refuse; dry-run."""
    promoted: bool
    epoch: int
    reason: str
    method: Method
    learned_from: int
    verdict: Verdict
    seconds: float


def train_once(
    settings: Settings,
    trigger: str,
    say: Say,
    *,
    encoder: str | None = None,
    base: Base = NO_BASE,
    method: Method | None = None,
    trials: int = 0,
    origin: str | None = None,
    seed: int = SEED,
    dry_run: bool = False,
) -> Outcome:
    """Fit a challenger, judge it, and write the decision, for or against, into the ledger.

    `encoder` names another encoder for it than the champion's: a folder, or a model that Hugging Face has. `base` are
    labelled texts of the user's own to replay. `method` is that of the settings where none is given; with `trials` so
    many ways of tuning are tried first. `origin` is a version to train on from instead of the champion, whose answers
    it then keeps where nobody has labelled a text. After a `dry_run` nothing comes of what is decided, and the labels
    still wait to be learned from.

    Raises:
        Misconfigured: another run or its challenger is under way, nothing was ever promoted, nobody has labelled
            anything yet, or the dataset leaks (`leaks`).
        Conflict: the champion has moved, or another model was prepared, meanwhile; nothing was decided.
        Transient: a server is away; nothing was decided.
    """
    began = time.monotonic()
    with closing(settings.connector("train")()) as connection, closing(settings.open_bus("train")) as bus:
        _only_one(connection)
        with transaction(connection), connection.cursor() as cursor:
            champion = registry.champion(cursor)
            if champion is None:
                raise Misconfigured("there is no champion to start from; `tickerloop migrate` registers one")
            folder = registry.fetch(cursor, champion.version, settings.model_cache)
            parent = registry.fetch(cursor, origin, settings.model_cache) if origin else folder
            data = assembly.assemble(cursor, base)
            rows = registry.ledger(cursor)
        if (under_way := standing.candidate(rows)) is not None:
            raise Misconfigured(
                f"{under_way.version} passed the gate and is {under_way.state}; `tickerloop models standing` tells more"
            )
        look = 1 + design.looks(rows)
        if not (data.learn or base.examples or encoder or origin):
            raise Misconfigured("there are no labels to learn from yet; correct some predictions first")
        run = _begin(connection, trigger, data)
        report = Report(connection, run)
        try:
            _keep(connection, run, data)
            say(f"learning from {len(data.learn)} labels, measured on {len(data.measure)} held-out ones")
            engine = open_engine(folder, device=settings.device, threads=settings.threads, cache=settings.model_cache)
            teacher = engine
            if parent != folder:
                teacher = open_engine(
                    parent, device=settings.device, threads=settings.threads, share=engine, cache=settings.model_cache
                )
            chosen = method_for(teacher, encoder, method, settings)
            if trials and chosen == "head":
                raise Misconfigured("a search is for a way of tuning the encoder: add --method lora or --method full")
            taught = lesson(teacher, data)
            if chosen == "head":
                encoding, start = encoding_for(teacher, encoder, say), None
            else:
                encoding, start = finetuned(teacher, data, taught, chosen, seed, settings, report, say, trials)
            report(Stage("judging", chosen))
            runtime = teacher.runtime
            if encoding.key != runtime.key:
                runtime = open_runtime(
                    encoding, device=settings.device, threads=settings.threads, cache=settings.model_cache
                )
            model, verdict = challenge(engine, runtime, data, taught, seed, look, start, teacher)
            say(f"{verdict.champion.rate:.1%} → {verdict.challenger.rate:.1%} on held-out texts: {verdict.reason}")
            verdict = _after_its_past(rows, model, verdict)
            action = "dry-run" if dry_run else _action(verdict, settings, rows)
            if action == "promote":
                promoter = Promoter(bus, settings.connector("train"), settings.prepare_s)
                verdict = _prepared(bus, promoter, model, verdict)
                action = _action(verdict, settings, rows)
            outcome = _record(bus, run, model, champion, verdict, action, chosen, len(data.learn), began)
            checkpoint.forget(settings.data_folder)
            return outcome
        except BaseException as error:
            with transaction(connection), connection.cursor() as cursor:
                _end(cursor, run, "failed", {"error": str(error)})
            raise


def encoding_for(engine: Engine, encoder: str | None, say: Say) -> Encoding:
    """What the challenger's head is fitted on: `encoder`, or else the champion's own encoding. Of a champion that is a
    whole classifier that is its encoder's hidden features: in its few logits, what a correction is about is gone.

    Raises:
        Misconfigured: see `find`.
    """
    own = engine.runtime.encoding
    if encoder is not None:
        return Encoding(find(encoder))
    if own.export != EXPORT:
        say("the champion answers by its own classifier; its challenger is a fresh head over the same encoder")
        return Encoding(own.base)
    return own


def method_for(engine: Engine, encoder: str | None, asked: Method | None, settings: Settings) -> Method:
    """What a run changes: what is asked for, or the setting, where there is an encoder with a head to tune.

    Raises:
        Misconfigured: to tune is asked for where there is only a fresh head to fit.
    """
    if encoder is None and tunable(engine):
        return asked or settings.method
    if asked not in (None, "head"):
        raise Misconfigured(
            f"--method {asked} goes on from the champion's own encoder and head; over another encoder, or from a"
            " classifier of one's own, the first challenger is a fresh head: leave --method out"
        )
    return "head"


def challenge(
    engine: Engine,
    runtime: Runtime,
    data: Dataset,
    taught: Lesson,
    seed: int,
    look: int,
    start: Head | None = None,
    teacher: Engine | None = None,
) -> tuple[Model, Verdict]:
    """Fit a challenger on the features of `runtime` and compare it with the champion in `engine` on the same examples.

    Its head starts from `start`, tuned together with the encoder; over the features of `teacher`, by default the
    champion, from that one's; over others afresh. `look` counts the challengers that this holdout has judged.
    """
    teacher = teacher or engine
    champion, parent = engine.model.head, teacher.model.head
    if start is None and runtime.key == teacher.runtime.key and isinstance(parent, Head):
        start = parent
    features = embed(runtime, taught.texts)
    head = fit(features, taught.targets, taught.weights, init=start, seed=seed, schedule=None if start else TRANSFER)

    anchor = evidence.both(engine.runtime, runtime, [e.text for e in data.anchor])
    apart = head.logits(anchor.challenger), dataset.one_hot(data.anchor), np.ones(len(data.anchor), np.float32)
    temperature = calibration.calibrate(*apart)
    sides = Side(engine.runtime, champion, engine.card.temperature), Side(runtime, head, temperature)
    verdict = gate.judge(evidence.gather(*sides, data, anchor), look)
    examples = [example.text for example in engine.card.examples]
    model = artifact.make(
        head,
        temperature,
        runtime.encoding,
        dataset=manifest.of(data).hash,
        parent=teacher.card.version,
        metrics={"held_out_accuracy": verdict.challenger.rate, "anchor_accuracy": verdict.anchor_challenger.rate},
        examples=dict(zip(examples, embed(runtime, examples), strict=True)),
        languages=teacher.card.languages if runtime.encoding.base.files == teacher.card.base else (),
        calibration=calibration.measure(*apart, temperature),
    )
    return model, verdict


def _after_its_past(rows: Sequence[LedgerRow], model: Model, verdict: Verdict) -> Verdict:
    """The verdict after what the ledger says: what proved worse in service once is not promoted again by itself."""
    before = standing.spurned(rows, model.card.version)
    if not verdict.promote or before is None:
        return verdict
    reason = f"{verdict.reason}, but it was rolled back at epoch {before.epoch}: {before.reason}"
    return msgspec.structs.replace(verdict, promote=False, reason=reason)


def _action(verdict: Verdict, settings: Settings, rows: Sequence[LedgerRow]) -> str:
    """What is decided, as the ledger stands: a pass is a promotion where nothing comes between."""
    if not verdict.promote:
        return "refuse"
    between = settings.shadow_texts or settings.approve or standing.held(rows, settings.cooldown_s, now_ms())
    return "pass" if between else "promote"


def _prepared(bus: Bus, promoter: Promoter, model: Model, verdict: Verdict) -> Verdict:
    """The verdict after the scorers' word: a model that one of them can't serve is not promoted."""
    bus.write(lambda cursor: _register(cursor, model))
    try:
        promoter.prepare(model.card.version)
    except Unprepared as refused:
        return msgspec.structs.replace(verdict, promote=False, reason=f"{verdict.reason}, but {refused.detail}")
    return verdict


def _register(cursor: Cursor, model: Model) -> Sequence[Outgoing]:
    registry.register(cursor, model.card.version, model.card.parent, artifact.files_of(model))
    return ()


def _record(
    bus: Bus,
    run: int,
    model: Model,
    champion: registry.Champion,
    verdict: Verdict,
    action: str,
    method: Method,
    learned_from: int,
    began: float,
) -> Outcome:
    """The model, the decision, its record for the scorers and the end of the run, in one effect."""
    outcomes: list[Outcome] = []

    def write(cursor: Cursor) -> Sequence[Outgoing]:
        _register(cursor, model)
        registry.lock(cursor)
        pinned_since = action == "promote" and standing.pinned(registry.ledger(cursor)) is not None
        row = registry.decide(
            cursor,
            "pass" if pinned_since else action,
            model.card.version,
            actor=registry.GATE,
            reason=verdict.reason,
            evidence=msgspec.to_builtins(verdict),
            expected_epoch=champion.epoch,
        )
        seconds = round(time.monotonic() - began, 2)
        promoted = row.action == "promote"
        outcome = Outcome(
            row.version, row.action, promoted, row.epoch, verdict.reason, method, learned_from, verdict, seconds
        )
        _end(cursor, run, ENDED[row.action], msgspec.to_builtins(outcome))
        outcomes.append(outcome)
        return [registry.announcement(row)] if promoted else []

    bus.write(write)
    return outcomes[-1]


def _only_one(connection: Connection) -> None:
    with transaction(connection), connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", (LOCK,))
        if cursor.fetchone() != (True,):
            raise Misconfigured("another training run is under way; `tickerloop status` shows it")


def _begin(connection: Connection, trigger: str, data: Dataset) -> int:
    """Open a run; one that is still open was killed, since this session holds the lock, and has learned nothing."""
    with transaction(connection), connection.cursor() as cursor:
        cursor.execute("SELECT run FROM training_run WHERE state = 'running'")
        for (killed,) in cursor.fetchall():
            _end(cursor, killed, "failed", {"error": "killed"})
        cursor.execute(
            "INSERT INTO training_run (trigger, state, upto, detail, started) VALUES (%s, 'running', %s, %s, %s)"
            " RETURNING run",
            (trigger, data.upto, json.dumps({"learn": len(data.learn), "measure": len(data.measure)}), now_ms()),
        )
        (run,) = cursor.fetchone() or (0,)
        return int(run)


def _keep(connection: Connection, run: int, data: Dataset) -> None:
    """Write down what the run learns from, unless something leaks."""
    with transaction(connection), connection.cursor() as cursor:
        leaks.refuse(cursor, data)
        manifest.keep(cursor, run, manifest.of(data))


def _end(cursor: Cursor, run: int, state: str, detail: object) -> None:
    cursor.execute(
        "UPDATE training_run SET state = %s, detail = %s, finished = %s WHERE run = %s",
        (state, json.dumps(detail), now_ms(), run),
    )
