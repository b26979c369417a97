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
from services.settings import Settings
from services.stream.bus import Bus, Outgoing
from services.stream.database import transaction
from services.stream.errors import Misconfigured
from services.stream.events import LABELS
from services.stream.membership import lock_key
from services.trainer import calibration, dataset, design, evidence, gate, registry
from services.trainer.dataset import Dataset
from services.trainer.evidence import Side
from services.trainer.gate import Verdict
from services.trainer.head import FRESH, fit
from services.trainer.promotion import Promoter, Unprepared

REPLAY_WEIGHT: Final = 1.0
"""Of one anchor text, against 1 of a text that a person labelled. With half as much, a champion that has learned the
anchor set's other half forgets more of it than the gate allows."""
LIVE_WEIGHT: Final = 0.1
"""Of the parent's own answer to an unlabelled live text: where people disagree with it, they should win."""
TRANSFER: Final = FRESH._replace(epochs=40, batch=64)
"""For a head over another encoder, which learns from hundreds of texts, not from ten thousand."""
SEED: Final = 1

Say = Callable[[str], None]


class Outcome(msgspec.Struct, frozen=True):
    """What a run came to. `epoch` is its ledger row; `version` the challenger's."""

    version: str
    promoted: bool
    epoch: int
    reason: str
    learned_from: int
    verdict: Verdict
    seconds: float


def train_once(
    settings: Settings,
    trigger: str,
    say: Say,
    *,
    encoder: str | None = None,
    start: str | None = None,
    seed: int = SEED,
) -> Outcome:
    """Fit a challenger, judge it, and write the decision, for or against, into the ledger.

    `encoder` names another encoder for it than the champion's: a folder, or a model that Hugging Face has. `start` is a
    version to train on from instead of the champion, whose answers it then keeps where nobody has labelled a text.

    Raises:
        Misconfigured: another run is under way, nothing was ever promoted, or nobody has labelled anything yet.
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
            parent = registry.fetch(cursor, start, settings.model_cache) if start else folder
            data = dataset.collect(cursor)
            look = 1 + design.looks(registry.ledger(cursor))
        if not data.learn and encoder is None and start is None:
            raise Misconfigured("there are no labels to learn from yet; correct some predictions first")
        run = _begin(connection, trigger, data)
        try:
            say(f"learning from {len(data.learn)} labels, measured on {len(data.measure)} held-out ones")
            engine = open_engine(folder, device=settings.device, threads=settings.threads, cache=settings.model_cache)
            teacher = engine
            if parent != folder:
                teacher = open_engine(
                    parent, device=settings.device, threads=settings.threads, share=engine, cache=settings.model_cache
                )
            encoding = encoding_for(teacher, encoder, say)
            runtime = teacher.runtime
            if encoding.key != runtime.key:
                runtime = open_runtime(
                    encoding, device=settings.device, threads=settings.threads, cache=settings.model_cache
                )
            model, verdict = challenge(engine, runtime, data, seed, look, teacher)
            say(f"{verdict.champion.rate:.1%} → {verdict.challenger.rate:.1%} on held-out texts: {verdict.reason}")
            if verdict.promote:
                promoter = Promoter(bus, settings.connector("train"), settings.prepare_s)
                verdict = _prepared(bus, promoter, model, verdict)
            return _record(bus, run, model, champion, verdict, len(data.learn), began)
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


def challenge(
    engine: Engine, runtime: Runtime, data: Dataset, seed: int, look: int, teacher: Engine | None = None
) -> tuple[Model, Verdict]:
    """Fit a challenger on the features of `runtime` and compare it with the champion in `engine` on the same examples.

    Over the features of `teacher`, by default the champion, it starts from that one's head; over others it starts
    afresh. `look` counts the challengers that this holdout has judged.
    """
    teacher = teacher or engine
    learn, replay = [*data.learn], [*data.replay]
    people = dataset.one_hot([*learn, *replay])
    features = embed(runtime, [*(e.text for e in learn), *(e.text for e in replay), *data.live])
    champion, taught = engine.model.head, teacher.model.head
    same = runtime.key == teacher.runtime.key
    init = taught if same and isinstance(taught, Head) else None
    live = features[len(people) :] if same or not data.live else embed(teacher.runtime, data.live)
    parent = taught.probabilities(live, 1.0) if data.live else np.zeros((0, len(LABELS)))
    targets = np.concatenate([people, parent.astype(np.float32)])
    weights = np.repeat(
        np.array([1.0, REPLAY_WEIGHT, LIVE_WEIGHT], np.float32), [len(learn), len(replay), len(data.live)]
    )
    head = fit(features, targets, weights, init=init, seed=seed, schedule=None if init else TRANSFER)

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
        dataset=data.digest,
        parent=teacher.card.version,
        metrics={"held_out_accuracy": verdict.challenger.rate, "anchor_accuracy": verdict.anchor_challenger.rate},
        examples=dict(zip(examples, embed(runtime, examples), strict=True)),
        languages=teacher.card.languages if runtime.encoding.base.files == teacher.card.base else (),
        calibration=calibration.measure(*apart, temperature),
    )
    return model, verdict


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
    bus: Bus, run: int, model: Model, champion: registry.Champion, verdict: Verdict, learned_from: int, began: float
) -> Outcome:
    """The model, the decision, its record for the scorers and the end of the run, in one effect."""
    outcomes: list[Outcome] = []

    def write(cursor: Cursor) -> Sequence[Outgoing]:
        _register(cursor, model)
        row = registry.decide(
            cursor,
            "promote" if verdict.promote else "refuse",
            model.card.version,
            actor=design.GATE,
            reason=verdict.reason,
            evidence=msgspec.to_builtins(verdict),
            expected_epoch=champion.epoch,
        )
        seconds = round(time.monotonic() - began, 2)
        outcome = Outcome(row.version, verdict.promote, row.epoch, verdict.reason, learned_from, verdict, seconds)
        _end(cursor, run, "promoted" if verdict.promote else "refused", msgspec.to_builtins(outcome))
        outcomes.append(outcome)
        return [registry.announcement(row)] if verdict.promote else []

    bus.write(write)
    return outcomes[-1]


def _only_one(connection: Connection) -> None:
    with transaction(connection), connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", (lock_key("training"),))
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


def _end(cursor: Cursor, run: int, state: str, detail: object) -> None:
    cursor.execute(
        "UPDATE training_run SET state = %s, detail = %s, finished = %s WHERE run = %s",
        (state, json.dumps(detail), now_ms(), run),
    )
