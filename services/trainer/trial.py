"""How a challenger that passed the gate did as a shadow: enough texts, no errors, and nothing absurd.

What it is held against is the champion on the same texts, without labels: whether it is better the gate has said. This
finds what the held-out texts can't show, since they are scored in the trainer: that a scorer can't serve it, or that
on today's stream it does something else than on the texts that it was judged by. So the bounds are wide: a challenger
that learned something is to pass them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from psycopg2.extensions import cursor as Cursor

from services.score.engine import Engine
from services.score.lanes import Priority
from services.status import Service
from services.stream.errors import Rejected
from services.stream.events import LABELS, Label
from services.trainer.accuracy import Accuracy, accuracy
from services.trainer.gate import MIN_SPEED

MIN_AGREEMENT: Final = 0.5
"""Share of texts with the champion's label, by the upper 95 % limit. In the demo the first challenger learns that desks
read the news the other way round, and differs on 38 % of their texts at least; two that know nothing of each other
differ on 67 %."""
MAX_SHIFT: Final = 0.35
"""Share of the labels that moved from some to others (total variation distance)."""
MAX_CONFIDENCE: Final = 0.25
"""By which the mean confidence may differ from the champion's: both are fitted to be right as often as they say."""
TIMED: Final = 64
"""Least texts that the trainer scores itself, to see how fast the challenger is."""


class Answers(NamedTuple):
    """One model's, of the same n texts in the same order: labels int[n] (of `LABELS`), confidence float[n]."""

    labels: np.ndarray
    confidence: np.ndarray


class Trial(msgspec.Struct, frozen=True):
    """What the shadow came to, with the numbers that it rests on; without `problems` the challenger goes on."""

    texts: int
    wanted: int
    live: int
    """Scored by the scorers beside the stream."""
    replayed: int
    """The newest stored texts, scored by the trainer, where the stream was too slow."""
    seconds: float
    """Since the shadow began."""
    errors: tuple[str, ...]
    agreement: Accuracy
    champion_labels: dict[Label, float]
    shadow_labels: dict[Label, float]
    shift: float
    champion_confidence: float
    shadow_confidence: float
    speed: float
    """Texts a second over the champion's, in the trainer; 1 where both share an encoder."""
    problems: tuple[str, ...]


def judge(
    live: tuple[Answers, Answers],
    replayed: tuple[Answers, Answers],
    *,
    wanted: int,
    seconds: float,
    errors: Sequence[str],
    speed: float,
) -> Trial:
    """Of the champion's answers and the shadow's, in this order."""
    champion, shadow = (
        Answers(*map(np.concatenate, zip(a, b, strict=True))) for a, b in zip(live, replayed, strict=True)
    )
    shares = [np.bincount(said.labels, minlength=len(LABELS)) / max(1, len(said.labels)) for said in (champion, shadow)]
    trial = Trial(
        texts=len(champion.labels),
        wanted=wanted,
        live=len(live[0].labels),
        replayed=len(replayed[0].labels),
        seconds=seconds,
        errors=tuple(errors),
        agreement=accuracy(champion.labels == shadow.labels),
        champion_labels=_by_label(shares[0]),
        shadow_labels=_by_label(shares[1]),
        shift=round(float(np.abs(shares[0] - shares[1]).sum() / 2), 4),
        champion_confidence=_mean(champion.confidence),
        shadow_confidence=_mean(shadow.confidence),
        speed=round(speed, 3),
        problems=(),
    )
    return msgspec.structs.replace(trial, problems=tuple(_problems(trial)))


def _problems(trial: Trial) -> list[str]:
    found = list(trial.errors)
    if trial.agreement.high < MIN_AGREEMENT:
        found.append(f"it agrees with the champion on {trial.agreement.rate:.0%} of {trial.texts} texts")
    if trial.shift > MAX_SHIFT:
        found.append(f"it moves {trial.shift:.0%} of the labels: {trial.champion_labels} → {trial.shadow_labels}")
    if not abs(trial.shadow_confidence - trial.champion_confidence) <= MAX_CONFIDENCE:  # nor a number that is none
        found.append(f"its confidence is {trial.shadow_confidence:.2f}, the champion's {trial.champion_confidence:.2f}")
    if trial.speed < MIN_SPEED:
        found.append(f"it makes {trial.speed:.0%} of the champion's texts a second")
    return found


def _by_label(shares: np.ndarray) -> dict[Label, float]:
    return dict(zip(LABELS, np.round(shares, 4).tolist(), strict=True))


def _mean(confidence: np.ndarray) -> float:
    return round(float(confidence.mean()), 4) if len(confidence) else 0.0


def in_service(found: Sequence[Service], version: str) -> list[str]:
    """What live scorers say against the shadow `version`."""
    errors = []
    for scorer in found:
        said = scorer.detail.get("shadow") if scorer.name == "score" and scorer.alive else None
        if isinstance(said, dict) and said.get("model") == version:
            if said.get("state") == "refused":
                errors.append(f"{scorer.name} {scorer.slot} can't load it: {said.get('reason')}")
            if failed := said.get("failed", 0):
                errors.append(f"{scorer.name} {scorer.slot} failed on {failed} texts")
    return errors


def answered(cursor: Cursor, champion: str, shadow: str, epoch: int, most: int) -> tuple[Answers, Answers]:
    """What both said of live texts since the shadow of ledger row `epoch` began, the first `most` of them."""
    cursor.execute(
        "SELECT c.label, greatest(c.negative, c.neutral, c.positive), s.label, greatest(s.negative, s.neutral,"
        " s.positive) FROM shadow_prediction s JOIN prediction c ON c.text_id = s.text_id AND c.model = %s"
        " WHERE s.model = %s AND s.epoch >= %s ORDER BY s.position LIMIT %s",
        (champion, shadow, epoch, most),
    )
    rows = cursor.fetchall()
    champions, shadows = ([(LABELS.index(row[at]), row[at + 1]) for row in rows] for at in (0, 2))
    return _of(champions), _of(shadows)


def _of(said: Sequence[tuple[int, float]]) -> Answers:
    return Answers(np.array([label for label, _ in said], int), np.array([sure for _, sure in said], float))


def logged(cursor: Cursor, shadow: str, epoch: int, most: int) -> list[str]:
    """The newest texts that were scored and are still stored, without those that the shadow had live."""
    cursor.execute(
        "SELECT t.body FROM prediction p JOIN text t USING (text_id) WHERE NOT EXISTS"
        " (SELECT FROM shadow_prediction s WHERE s.text_id = p.text_id AND s.model = %s AND s.epoch >= %s)"
        " AND NOT EXISTS (SELECT FROM prediction n WHERE n.text_id = p.text_id AND n.position > p.position)"
        " ORDER BY p.event_time DESC, p.prediction_id DESC LIMIT %s",
        (shadow, epoch, most),
    )
    return [body for (body,) in cursor.fetchall()]


class Replay(NamedTuple):
    """What the trainer made of logged texts: the champion's answers, the shadow's, its speed, and what failed."""

    champion: Answers
    shadow: Answers
    speed: float
    errors: tuple[str, ...]


NOTHING: Final = Replay(_of([]), _of([]), 1.0, ())


def replay(champion: Engine, shadow: Engine, texts: Sequence[str]) -> Replay:
    """Have both answer; what the champion can't score is left out."""
    began = time.perf_counter()
    before = champion.score(texts, Priority.BACKGROUND)
    between = time.perf_counter()
    now = shadow.score(texts, Priority.BACKGROUND)
    took, took_before = time.perf_counter() - between, between - began
    asked = [(a, b) for a, b in zip(before, now, strict=True) if not isinstance(a, Rejected)]
    good = [(a, b) for a, b in asked if not isinstance(b, Rejected)]
    failed = len(asked) - len(good)
    return Replay(
        _of([(LABELS.index(a.label), max(a.probabilities)) for a, _ in good]),
        _of([(LABELS.index(b.label), max(b.probabilities)) for _, b in good]),
        1.0 if shadow.runtime.key == champion.runtime.key else took_before / took,
        (f"it fails on {failed} logged texts",) if failed else (),
    )
