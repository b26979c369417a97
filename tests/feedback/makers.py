"""Words for tests, in short."""

from __future__ import annotations

from typing import Any

from services.feedback.trust import Annotator, Consensus, Judgement, Word

STEP = 60_000
"""Between two words of a test, ms: slower than any burst."""


class Words(list[Word]):
    """Words in the order in which they are said."""

    def say(self, who: str, item: str, label: int, *, granted: bool = False, **more: Any) -> Words:
        given = more.pop("given", STEP * len(self))
        self.append(Word(f"{who} {item}", item, who, granted, label, given, **more))
        return self

    def gold(self, who: str, right: int, of: int, *, start: int = 0) -> Words:
        """Answers to gold questions of all classes in turn; the wrong ones come first."""
        for n in range(of):
            label = n % 3 if n >= of - right else (n + 1) % 3
            self.say(who, f"gold {start + n}", label, truth=n % 3)
        return self


def of(judgement: Judgement, who: str) -> Annotator:
    (found,) = (annotator for annotator in judgement.annotators if annotator.name == who)
    return found


def on(judgement: Judgement, item: str) -> Consensus:
    (found,) = (consensus for consensus in judgement.consensus if consensus.item == item)
    return found
