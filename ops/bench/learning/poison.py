"""Three of ten readers hostile: what gets promoted, with trust and without, against a desk of ten honest ones.

Texts come in a random order. Half of those that are judged lie in the holdout, one in five is judged by two or three,
and readers answer gold questions, which the hostile know. After each part of the texts a challenger is fitted on what
the words teach, and the gate judges it on what they measure, as the trainer does, without edits of texts. The loop
without trust believes each word: of a story's words the most frequent label counts, of equals the last.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any, Final, NamedTuple

import numpy as np

from ops.bench.common import console
from ops.bench.learning.curves import summary
from ops.bench.learning.desk import ATTACKS, HARD, Looking, Says, Text, desk, honest, knows_gold, labelled
from ops.bench.learning.streams import Stream, Texts, challenger, one_hot, right
from services.feedback import assess
from services.feedback.assess import Taught
from services.feedback.trust import Judgement, Word
from services.score.head import Head
from services.stream.events import LABELS
from services.trainer import calibration, gate
from services.trainer.gate import Evidence, Pair

JUDGED: Final = 4_800
"""Texts, of which half are held out."""
LOOKS: Final = 3
"""Challengers, one after each such part of the texts."""
TARGET: Final = re.compile(r"\b(nifty|sensex|bse|nse|sebi|rbi|rupee)\b", re.IGNORECASE)
"""What targeted readers lie about: the Indian market as a whole, an eighth of SEntFiN."""
LEAST_TARGET: Final = 400
"""Texts that measure it."""


class Ended(NamedTuple):
    """What a desk's words made of the champion, as differences in accuracy."""

    gain: float
    """Of the last champion over the first."""
    worst: float
    """Of the worst promotion over the champion that it replaced; 0 without one."""
    worst_on_target: float
    promotions: int
    held: float
    """Share of the hostile readers' words that lie in quarantine; in the honest desk, of three of its readers."""
    held_of_others: float


def run(stream: Stream, seeds: int) -> dict[str, Any]:
    """Each attack with and without trust, beside the honest desk."""
    on_target = np.array([bool(TARGET.search(text)) for text in stream.new.texts])
    if on_target.sum() < LEAST_TARGET:
        raise ValueError(f"{on_target.sum()} texts measure the target; there must be {LEAST_TARGET}")
    desks = {"honest": desk(honest)} | {name: desk(knows_gold(attack)) for name, attack in ATTACKS.items()}
    figures: dict[str, Any] = {"tested": len(on_target), "on_target": int(on_target.sum()), "seeds": seeds}
    clean = np.zeros(seeds)
    for name, readers in desks.items():
        for arm in ("trust", "everyone"):
            ended = [_desk(stream, readers, arm == "trust", on_target, seed) for seed in range(seeds)]
            if (name, arm) == ("honest", "trust"):
                clean = np.array([one.gain for one in ended])
            figures[f"{name}, {arm}"] = _figures(ended, clean)
            console.print(f"  {name}, {arm}: {figures[f'{name}, {arm}']}")
    return figures


def _figures(ended: Sequence[Ended], clean: np.ndarray) -> dict[str, Any]:
    columns = {field: np.array([getattr(one, field) for one in ended], float) for field in Ended._fields}
    found: dict[str, Any] = {field: summary(values) for field, values in columns.items()}
    return found | {"of_clean_gain": round(float(columns["gain"].mean() / clean.mean()), 3)}


def _desk(stream: Stream, readers: Mapping[str, Says], trusting: bool, on_target: np.ndarray, seed: int) -> Ended:
    rng = Random(seed)
    numbers = rng.sample(range(len(stream.pool.labels)), JUDGED)
    held_out = frozenset(f"text{n}" for n in numbers[::2])
    texts = [_text(stream, n, f"text{n}" in held_out, rng) for n in numbers]
    words = labelled(texts, readers, rng)
    champion, looking, looks = stream.champion, Looking(), 0
    changes = []
    for part in range(1, LOOKS + 1):
        so_far = words[: len(words) * part // LOOKS]
        judged = looking.look(so_far)
        taught = _trusting(judged, held_out) if trusting else _believing(so_far)
        learned = {n: t for n, t in taught.items() if f"text{n}" not in held_out and t.weight}
        measured = {n: t for n, t in taught.items() if f"text{n}" in held_out and t.measures}
        rival = challenger(stream, champion, [*learned], *_columns(learned.values()), seed)
        looks += 1
        verdict = gate.judge(_evidence(stream, champion, rival, measured), looks)
        if verdict.promote:
            gains = right(rival, stream.new).astype(float) - right(champion, stream.new)
            changes.append((gains.mean(), gains[on_target].mean()))
            champion, looks = rival, 0
    held = {word for finding in looking.found.values() for word in finding.words}
    said = [(word.who.startswith("hostile"), word.id in held) for word in words if word.truth is None]
    return Ended(
        gain=float(right(champion, stream.new).mean() - right(stream.champion, stream.new).mean()),
        worst=float(min((overall for overall, _ in changes), default=0.0)),
        worst_on_target=float(min((target for _, target in changes), default=0.0)),
        promotions=len(changes),
        held=float(np.mean([one for hostile, one in said if hostile])),
        held_of_others=float(np.mean([one for hostile, one in said if not hostile])),
    )


def _text(stream: Stream, number: int, sampled: bool, rng: Random) -> Text:
    found = TARGET.search(stream.pool.texts[number])
    ticker = found[0].upper() if found else ""
    predicted = int(stream.champion.logits(stream.pool.features[[number]]).argmax())
    label = int(stream.pool.labels[number])
    return Text(f"text{number}", label, ticker, bool(found), rng.random() < HARD, sampled=sampled, predicted=predicted)


def _trusting(judged: Judgement, held_out: frozenset[str]) -> dict[int, Taught]:
    carriers = {story.carrier: story.item for story in judged.consensus}
    apart = {carrier for carrier, item in carriers.items() if item in held_out}
    return {int(carriers[c][4:]): t for c, t in sorted(assess.weighed(judged, (), apart).items())}


def _believing(words: Sequence[Word]) -> dict[int, Taught]:
    said: defaultdict[int, list[Word]] = defaultdict(list)
    for word in words:
        if word.truth is None:
            said[int(word.item[4:])].append(word)
    found = {}
    for number, own in sorted(said.items()):
        counts = Counter(word.label for word in own)
        label = max(reversed(own), key=lambda word: counts[word.label]).label
        found[number] = Taught(label, 1.0, own[0].sampled)
    return found


def _columns(taught: Iterable[Taught]) -> tuple[np.ndarray, np.ndarray]:
    rows = [*taught]
    return np.array([t.label for t in rows], int), np.array([t.weight for t in rows], np.float32)


def _evidence(stream: Stream, champion: Head, rival: Head, measured: Mapping[int, Taught]) -> Evidence:
    numbers = [*measured]
    labels, _ = _columns(measured.values())
    features, texts = stream.pool.features[numbers], [stream.pool.texts[n] for n in numbers]
    probabilities = [head.probabilities(features, _temperature(head, stream.anchor)) for head in (champion, rival)]
    ticker = np.array([bool(TARGET.search(text)) for text in texts])
    parts = {f"class {label}": labels == k for k, label in enumerate(LABELS)}
    return Evidence(
        held_out=Pair(*(p.argmax(axis=1) == labels for p in probabilities)),
        anchor=Pair(right(champion, stream.anchor), right(rival, stream.anchor)),
        parts=parts | {"tickers plain": ticker, "tickers none": ~ticker},
        confidence=Pair(*(p.max(axis=1) for p in probabilities)),
    )


def _temperature(head: Head, anchor: Texts) -> float:
    ones = np.ones(len(anchor.labels), np.float32)
    return calibration.calibrate(head.logits(anchor.features), one_hot(anchor.labels), ones)
