"""Why a text gets its label: what each of its words adds to the label's log-odds."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

from services.score.engine import Engine, Scored
from services.score.lanes import Priority
from services.score.tokens import Word
from services.stream.errors import Rejected
from services.stream.events import LABELS, Label

if TYPE_CHECKING:
    from services.score.gradients import Gradients


class Explanation(NamedTuple):
    """Of one text and one label; log-odds are ln(p / (1 − p)), in fp32."""

    scored: Scored
    """The answer of the engine that serves."""
    fp32_label: Label
    """The label in fp32, which is what is explained: where it isn't the one that is served, rounding decided, or a
    window after the first."""
    explained: Label
    words: list[tuple[Word, float]]
    """What each adds to the log-odds, in the order of the text."""
    value: float
    """Log-odds of the label."""
    baseline: float
    """The same with a mask in the place of every word."""
    gap: float
    """Sum of the attributions − (value − baseline): the error of the steps, 0 in the limit (completeness)."""

    @property
    def relative_gap(self) -> float | None:
        """Of value − baseline; None where that is 0."""
        difference = self.value - self.baseline
        return self.gap / difference if difference else None


class Explainer:
    """Explains with one model at a time, which is kept in fp32 until another is asked or its engine is gone. Calls must
    not overlap."""

    def __init__(self) -> None:
        self._held: WeakKeyDictionary[Engine, Gradients] = WeakKeyDictionary()

    def explain(
        self, engine: Engine, text: str, label: Label | None = None, given_up: threading.Event | None = None
    ) -> Explanation:
        """Explain `label`, or the one that the engine gives the text. The first call imports torch.

        Of a text in windows the first is explained, as if the text ended there.

        Raises:
            Rejected: the text can't be scored, or that label of the model can't be explained.
            CancelledError: `given_up` was set, which is looked at between steps.
        """
        (scored,) = engine.score([text], Priority.INTERACTIVE)
        if isinstance(scored, Rejected):
            raise scored
        explained = label or scored.label
        ids, words = engine.runtime.tokenizer.words(text)
        blanks = engine.runtime.tokenizer.without(ids, words)
        found = self._gradients(engine).attribute(ids, blanks, LABELS.index(explained), given_up)
        attributed = [(word, float(found.attributions[word.pieces].sum())) for word in words]
        return Explanation(
            scored=scored,
            fp32_label=LABELS[found.label],
            explained=explained,
            words=attributed,
            value=found.value,
            baseline=found.baseline,
            gap=sum(attribution for _, attribution in attributed) - (found.value - found.baseline),
        )

    def _gradients(self, engine: Engine) -> Gradients:
        found = self._held.get(engine)
        if found is None:
            from services.score.gradients import Gradients  # imports torch

            self._held.clear()  # before the next is loaded: never two in memory
            found = self._held[engine] = Gradients(engine.runtime.encoding, engine.model.head, engine.card.temperature)
        return found
