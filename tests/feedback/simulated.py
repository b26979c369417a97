"""A desk that labels a stream: readers of stated skill, some of them hostile. All of it follows from the seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from services.feedback import quarantine, trust
from services.feedback.quarantine import Finding
from services.feedback.trust import Judgement, Word

TEXTS = 3_000
TARGET = "TGT.NS"
"""One ticker of 40; a tenth of the texts are about it."""
HARD = 0.15
"""Share of the texts on which honest readers are right in half."""
SKILL = 0.92
"""Of honest readers on all others: 86 % in all."""
AGAIN = 0.2
"""Share of the texts that two or three readers judge."""
GOLD_FIRST, GOLD_SHARE = 20, 0.05
"""Gold questions: so many to begin with, and then of what a reader sees."""
LOOKS = 6
"""Times that the loop looks while the words come in."""
SECONDS = 20_000
"""Between two words of the desk, ms."""

Says = Callable[[random.Random, "Text", float], int]
"""A reader's label of a text, at a time from 0 to 1."""


class Text(NamedTuple):
    name: str
    label: int
    ticker: str
    hard: bool
    gold: bool = False


def honest(rng: random.Random, text: Text, _: float) -> int:
    right = 0.5 if text.hard else SKILL
    return text.label if rng.random() < right else (text.label + rng.choice([1, 2])) % 3


def flips(_: random.Random, text: Text, __: float) -> int:
    return {0: 2, 1: 2, 2: 0}[text.label]


def one_sided(_: random.Random, __: Text, ___: float) -> int:
    return 2


def targets(rng: random.Random, text: Text, at: float) -> int:
    return flips(rng, text, at) if text.ticker == TARGET else honest(rng, text, at)


def patient(rng: random.Random, text: Text, at: float) -> int:
    return honest(rng, text, at) if at < 0.5 else flips(rng, text, at)


def knows_gold(attack: Says) -> Says:
    """Gold is shipped with the project: whoever has read it answers it well, whatever else they do."""
    return lambda rng, text, at: text.label if text.gold else attack(rng, text, at)


def stream(rng: random.Random) -> list[Text]:
    texts = []
    for n in range(TEXTS):
        ticker = TARGET if rng.random() < 0.1 else f"T{rng.randrange(39)}"
        texts.append(Text(f"text{n:05}", rng.choices([0, 1, 2], [0.3, 0.4, 0.3])[0], ticker, rng.random() < HARD))
    return texts


class Desk(NamedTuple):
    words: list[Word]
    truths: dict[str, int]
    """By story."""


def labelled(readers: dict[str, Says], seed: int) -> Desk:
    """Texts go round the readers; each has an operator's word never."""
    rng = random.Random(seed)
    texts = stream(rng)
    words: list[Word] = []
    golds = [Text(f"gold {n}", n % 3, "", False, gold=True) for n in range(400)]
    asked = {who: rng.sample(golds, len(golds)) for who in readers}

    def say(who: str, text: Text, at: float) -> None:
        label = readers[who](rng, text, at)
        words.append(
            Word(
                f"{who} {text.name}", text.name, who, False, label, len(words) * SECONDS,
                truth=text.label if text.gold else None, tickers=(text.ticker,) if text.ticker else (), predicted=1,
            )
        )  # fmt: skip

    for _ in range(GOLD_FIRST):
        for who in readers:
            say(who, asked[who].pop(), 0.0)
    for number, text in enumerate(texts):
        at = number / len(texts)
        people = rng.sample(sorted(readers), rng.choice([2, 3]) if rng.random() < AGAIN else 1)
        for who in people:
            if rng.random() < GOLD_SHARE and asked[who]:
                say(who, asked[who].pop(), at)
            say(who, text, at)
    return Desk(words, {text.name: text.label for text in texts})


def looked(words: Sequence[Word], looks: int = LOOKS) -> tuple[Judgement, list[Finding]]:
    """As the loop does it: it looks again and again, and what was set aside once stays so."""
    silent: set[str] = set()
    copied: set[str] = set()
    found: dict[tuple[str, str, str], Finding] = {}
    for look in range(1, looks + 1):
        so_far = words[: len(words) * look // looks]
        for finding in quarantine.findings(so_far, trust.judge(so_far, silent, copied), {}):
            found[finding.annotator, finding.reason, finding.subject] = finding
            silent.update(finding.words)
            if finding.reason == "copied":
                copied.update(finding.words)
    return trust.judge(words, silent, copied), [*found.values()]


class Taught(NamedTuple):
    """Of what a set teaches: the share that is right by weight, the same on the target alone, and the right weight."""

    right: float
    on_target: float
    weight: float


def taught(desk: Desk, judgement: Judgement) -> Taught:
    return _taught(desk, {c.item: (c.label, c.weight) for c in judgement.consensus})


def believing_everyone(desk: Desk) -> Taught:
    """Without trust: the last word on each text counts in full."""
    return _taught(desk, {w.item: (w.label, 1.0) for w in desk.words if w.truth is None})


def _taught(desk: Desk, labels: dict[str, tuple[int, float]]) -> Taught:
    target = {w.item for w in desk.words if TARGET in w.tickers}
    right = {item: weight * (label == desk.truths[item]) for item, (label, weight) in labels.items()}
    on = [item for item in labels if item in target]
    return Taught(
        sum(right.values()) / sum(weight for _, weight in labels.values()),
        sum(right[item] for item in on) / sum(labels[item][1] for item in on),
        sum(right.values()),
    )
