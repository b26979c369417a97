"""A desk that labels a stream: readers of stated skill, some of them hostile. All of it follows from the seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from services.feedback import quarantine, trust
from services.feedback.quarantine import Finding
from services.feedback.trust import Judgement, Word

HARD: Final = 0.15
"""Share of the texts on which honest readers are right in half."""
SKILL: Final = 0.92
"""Of honest readers on all others: 86 % in all."""
AGAIN: Final = 0.2
"""Share of the texts that two or three readers judge."""
GOLD_FIRST, GOLD_SHARE = 20, 0.05
"""Gold questions: so many to begin with, and then of what a reader sees."""
SECONDS: Final = 20_000
"""Between two words of the desk, ms."""

Says = Callable[[random.Random, "Text", float], int]
"""A reader's label of a text, at a time from 0 to 1."""


class Text(NamedTuple):
    """`ticker` is empty where it has none; `target` is what targeted attacks are about."""

    name: str
    label: int
    ticker: str
    target: bool
    hard: bool
    gold: bool = False
    sampled: bool = False
    predicted: int = 1


def honest(rng: random.Random, text: Text, _: float) -> int:
    """Right as often as `SKILL` and `HARD` say."""
    right = 0.5 if text.hard else SKILL
    return text.label if rng.random() < right else (text.label + rng.choice([1, 2])) % 3


def flips(_: random.Random, text: Text, __: float) -> int:
    """Always wrong, and as far off as can be."""
    return {0: 2, 1: 2, 2: 0}[text.label]


def one_sided(_: random.Random, __: Text, ___: float) -> int:
    """Always positive."""
    return 2


def targets(rng: random.Random, text: Text, at: float) -> int:
    """Wrong on the target, honest elsewhere."""
    return flips(rng, text, at) if text.target else honest(rng, text, at)


def patient(rng: random.Random, text: Text, at: float) -> int:
    """Honest for the first half."""
    return honest(rng, text, at) if at < 0.5 else flips(rng, text, at)


ATTACKS: Final[Mapping[str, Says]] = {f.__name__: f for f in (flips, one_sided, targets, patient)}


def knows_gold(attack: Says) -> Says:
    """Gold is shipped with the project: whoever has read it answers it well, whatever else they do."""
    return lambda rng, text, at: text.label if text.gold else attack(rng, text, at)


def desk(attack: Says, readers: int = 10, hostile: int = 3) -> dict[str, Says]:
    """By name."""
    names = [f"honest{n}" for n in range(readers - hostile)], [f"hostile{n}" for n in range(hostile)]
    return dict.fromkeys(names[0], honest) | dict.fromkeys(names[1], attack)


def labelled(texts: Sequence[Text], readers: Mapping[str, Says], rng: random.Random) -> list[Word]:
    """Texts go round the readers, none of whom is an operator."""
    words: list[Word] = []
    golds = [Text(f"gold {n}", n % 3, "", target=False, hard=False, gold=True) for n in range(400)]
    asked = {who: rng.sample(golds, len(golds)) for who in readers}

    def say(who: str, text: Text, at: float) -> None:
        words.append(
            Word(
                f"{who} {text.name}", text.name, who, False, readers[who](rng, text, at), len(words) * SECONDS,
                truth=text.label if text.gold else None, tickers=(text.ticker,) if text.ticker else (),
                predicted=text.predicted, sampled=text.sampled,
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
    return words


class Looking:
    """As the loop looks, again and again: what was set aside once stays so."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str, str], Finding] = {}
        self._silent: set[str] = set()
        self._copied: set[str] = set()

    def look(self, words: Sequence[Word]) -> Judgement:
        """At all words so far."""
        for finding in quarantine.findings(words, trust.judge(words, self._silent, self._copied), {}):
            self.found[finding.annotator, finding.reason, finding.subject] = finding
            self._silent.update(finding.words)
            if finding.reason == "copied":
                self._copied.update(finding.words)
        return trust.judge(words, self._silent, self._copied)
