"""From the gate's pass to service, and back where it proves a mistake: one look each second, one step at a time.

Each step is one ledger row, told to the scorers in the same effect (`standing` draws the states). Nothing is kept in
this process but loaded models, so it may be killed at any moment, and any trainer goes on where it stood. Two trainers
at once don't both step: one holds an advisory lock, which dies with it; and each row is written on the ledger as it is
under its lock, so that a step that another process or a person made impossible is a Conflict.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Final

import msgspec
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from services.runtime import Context, now_ms
from services.score.engine import Engine, open_engine
from services.score.lanes import Priority
from services.settings import Settings
from services.status import services
from services.stream.database import transaction
from services.stream.errors import Misconfigured, Rejected, Transient
from services.stream.loop import Backoff
from services.stream.membership import lock_key
from services.trainer import registry, standing, trial, watch
from services.trainer.promotion import Promoter, Unprepared
from services.trainer.registry import GATE, WATCH, Champion, Conflict, LedgerRow
from services.trainer.standing import Candidate
from services.trainer.trial import Replay, Trial
from services.trainer.watch import Watched

LOOK_EVERY_S: Final = 1.0
NICE: Final = 19

log = logging.getLogger(__name__)


def follow(context: Context) -> None:
    """Look until stopped, at the lowest priority; for a thread of its own, beside the training."""
    with_lowest_priority()
    backoff = Backoff(context.stop)
    rollout = Rollout(context.settings, context.stop)
    while not context.stop.wait(LOOK_EVERY_S):
        try:
            rollout.look()
            backoff.reset()
        except Transient as error:
            log.warning("%s; trying again", error)
            backoff.wait()
        except Exception:
            log.exception("the challenger under way stays where it is; trying again")
            backoff.wait()


def with_lowest_priority() -> None:
    """For this thread and those that it starts, such as its engines' lanes. On Linux niceness is a thread's."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


class Rollout:
    """One trainer's view; a set `stop` ends a wait for the scorers."""

    def __init__(self, settings: Settings, stop: threading.Event | None = None) -> None:
        self._settings = settings
        self._stop = stop or threading.Event()
        self._connect = settings.connector("rollout")
        self._rows: list[LedgerRow] = []
        self._engines: dict[str, Engine] = {}
        self._watched: tuple[int, ...] = ()

    def look(self) -> None:
        """Take the next step, if there is one now, and hold new labels against the champion.

        Raises:
            Transient: a server is away.
        """
        with closing(self._connect()) as connection:
            with transaction(connection), connection.cursor() as cursor:
                cursor.execute("SELECT pg_try_advisory_lock(%s)", (lock_key("rollout"),))
                if cursor.fetchone() != (True,):
                    return
                self._read(cursor)
                champion = registry.champion(cursor)
            found = standing.candidate(self._rows)
            try:
                if found is not None and champion is not None and found.state != "awaiting approval":
                    self._step(connection, found, champion)
                self._watch(connection)
            except Conflict as moved:
                log.info("somebody else has decided: %s", moved.detail)

    def _read(self, cursor: Cursor) -> None:
        cursor.execute("SELECT coalesce(max(epoch), 0) FROM ledger")
        if cursor.fetchone() != (len(self._rows),):  # numbers have no gaps
            self._rows = registry.ledger(cursor)

    # ── towards service ──────────────────────────────────────────────────────────────────────────────────────────────

    def _step(self, connection: Connection, found: Candidate, champion: Champion) -> None:
        if found.state == "passed" and self._settings.shadow_texts:
            with self._promoter() as promoter:
                promoter.shadow(
                    found.version,
                    actor=GATE,
                    reason=f"passed the gate at epoch {found.passed.epoch}",
                    expected_epoch=champion.epoch,
                    check=lambda rows: standing.under_way(rows, found.version),
                )
            return
        if not self._settings.approve and standing.held(self._rows, self._settings.cooldown_s, now_ms()):
            return
        evidence = found.evidence
        if found.shadow is not None:
            tried = self._tried(connection, found, found.shadow, champion)
            if tried is None:
                return
            evidence = evidence | {"shadow": msgspec.to_builtins(tried)}
            if tried.problems:
                self._withdraw(found, f"as a shadow {'; '.join(tried.problems)}", evidence, champion)
                return
        if self._settings.approve:
            self._decide("propose", found, "a person has to approve of it", evidence, champion)
        else:
            self._promote(found, evidence, champion)

    def _promote(self, found: Candidate, evidence: dict[str, Any], champion: Champion) -> None:
        def check(rows: Sequence[LedgerRow]) -> None:
            standing.must_be_free(rows)
            standing.under_way(rows, found.version)

        try:
            with self._promoter() as promoter:
                promoter.promote(
                    found.version,
                    actor=GATE,
                    reason=found.passed.reason,
                    evidence=evidence,
                    expected_epoch=champion.epoch,
                    check=check,
                )
        except Unprepared as refused:
            self._withdraw(found, refused.detail, evidence, champion)

    def _withdraw(self, found: Candidate, reason: str, evidence: dict[str, Any], champion: Champion) -> None:
        self._decide("withdraw", found, reason, evidence, champion)

    def _decide(self, action: str, found: Candidate, reason: str, evidence: dict[str, Any], champion: Champion) -> None:
        with self._promoter() as promoter:
            promoter.decide(
                action,
                found.version,
                GATE,
                reason,
                evidence,
                champion.epoch,
                lambda rows: standing.under_way(rows, found.version),
            )

    def _tried(self, connection: Connection, found: Candidate, shadow: LedgerRow, champion: Champion) -> Trial | None:
        """None while it has answered too few texts."""
        wanted, waited = self._settings.shadow_texts, (now_ms() - shadow.at) / 1000
        with transaction(connection), connection.cursor() as cursor:
            errors = trial.in_service(services(cursor), found.version)
            live = trial.answered(cursor, champion.version, found.version, shadow.epoch, wanted)
            missing = wanted - len(live[0].labels)
            if not errors and missing > 0 and waited < self._settings.shadow_s:
                return None
            texts = trial.logged(cursor, found.version, shadow.epoch, max(missing, trial.TIMED))
        if not errors and missing > len(texts):
            return None
        replay = trial.NOTHING if errors else self._replayed(connection, champion.version, found.version, texts)
        return trial.judge(
            live,
            (replay.champion, replay.shadow),
            wanted=wanted,
            seconds=round(waited, 1),
            errors=(*errors, *replay.errors),
            speed=replay.speed,
        )

    def _replayed(self, connection: Connection, champion: str, version: str, texts: Sequence[str]) -> Replay:
        try:
            before, now = self._loaded(connection, champion, version)
        except (Rejected, Misconfigured) as error:
            return trial.NOTHING._replace(errors=(f"the trainer can't load it: {error}",))
        return trial.replay(before, now, texts)

    # ── afterwards ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _watch(self, connection: Connection) -> None:
        row = watch.watched(self._rows)
        if row is None or row.champion is None:
            return
        with transaction(connection), connection.cursor() as cursor:
            texts = watch.fresh(cursor, row)
        if texts:
            both = self._loaded(connection, row.version, row.champion)
            champion, former = (_labels(engine, list(texts.values())) for engine in both)
            said = dict(zip(texts, zip(champion, former, strict=True), strict=True))
            with transaction(connection), connection.cursor() as cursor:
                watch.keep(cursor, row, said)
        with transaction(connection), connection.cursor() as cursor:
            state = row.epoch, *watch.state(cursor, row)
            if state == self._watched:
                return
            found = watch.found(cursor, row)
        self._watched = state
        if found.worse and standing.pinned(self._rows) is None:
            self._roll_back(found)

    def _roll_back(self, found: Watched) -> None:
        log.warning("model %s is %s", found.version, found.reason)
        with self._promoter() as promoter:
            promoter.rollback(
                actor=WATCH,
                reason=found.reason,
                evidence=msgspec.to_builtins(found),
                expected_epoch=found.epoch,
                check=standing.must_be_free,
            )

    # ── what both need ───────────────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def _promoter(self) -> Iterator[Promoter]:
        with closing(self._settings.open_bus("rollout")) as bus:
            yield Promoter(bus, self._connect, self._settings.prepare_s, self._stop)

    def _loaded(self, connection: Connection, *versions: str) -> list[Engine]:
        """Models on one core each, kept until others are needed."""
        self._engines = {version: engine for version, engine in self._engines.items() if version in versions}
        settings = self._settings
        for version in versions:
            if version not in self._engines:
                with transaction(connection), connection.cursor() as cursor:
                    folder = registry.fetch(cursor, version, settings.model_cache)
                share = next(iter(self._engines.values()), None)
                self._engines[version] = open_engine(
                    folder, device=settings.device, threads=1, share=share, cache=settings.model_cache
                )
        return [self._engines[version] for version in versions]


def _labels(engine: Engine, texts: Sequence[str]) -> list[str]:
    """In the order of the texts; '' where one can't be scored."""
    said = engine.score(texts, Priority.BACKGROUND)
    return ["" if isinstance(one, Rejected) else one.label for one in said]
