"""The bundled model, from labelled sets to files: `tickerloop train --recipe bundled --data DIR`.

DIR holds `tfns_train.csv`, `tfns_valid.csv` and `sentfin.csv`. Their texts are other people's and stay out of the
repository: only the weights are shipped, with their attribution. Everything is seeded: the same machine, with as many
threads, makes the same model again.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from services.score import artifact
from services.score.artifact import EXAMPLES, Model
from services.score.base import BUNDLED, Base, Encoding, find, sha256
from services.score.engine import Runtime, embed, open_runtime
from services.score.head import Head
from services.stream.events import LABELS, derived_id
from services.trainer import calibration
from services.trainer.anchors import anchors
from services.trainer.head import TUNE, fit
from services.trainer.learner import Tuned
from services.trainer.lesson import Lesson
from services.trainer.tune import RANK, Plan, Progress, smoothed, soup, tune

FILES: Final = ("tfns_train.csv", "tfns_valid.csv", "sentfin.csv")
TFNS_LABELS: Final = {"0": "negative", "1": "positive", "2": "neutral"}
SEED: Final = 20_250_101
"""Of the head that every run starts from: only runs from one start can be averaged."""
SEEDS: Final = (1, 2, 3)
"""One run each; what is shipped is their average."""
SETTLE: Final = TUNE._replace(epochs=3, batch=256, rate=1e-4, dropout=0.3)
"""For the head, at last, over the features as they are served: averaged, of low rank and in int8."""
LANGUAGES: Final = ("en",)
CALIBRATION: Final = 20
"""One text in so many is not learned from: temperature and threshold are fitted on it."""


class Example(NamedTuple):
    """A labelled text of one source; `target` holds a share for each label, summing to 1."""

    source: str
    text: str
    target: tuple[float, float, float]

    @property
    def label(self) -> int:
        """The likeliest."""
        return int(np.argmax(self.target))


class Split(NamedTuple):
    """What is learned, what temperature and threshold are fitted on, and what is measured, by name of the measure."""

    learn: list[Example]
    apart: list[Example]
    measure: dict[str, list[Example]]


def main(data: Path, say: Callable[[str], None] = print) -> Model:
    """Train, measure, and write the bundled model's files."""
    sets = read(data)
    base = find(BUNDLED)
    learn = [*sets.learn, *unlinked(sets.learn)]
    plain = embed(open_runtime(Encoding(base), device="cpu"), [e.text for e in learn])
    start = fit(plain, targets(learn), weights(learn), seed=SEED)
    tuned = soup([train(base, start, learn, sets, Plan(), seed, say) for seed in SEEDS])
    runtime = open_runtime(Encoding(base, tuned.adapter(RANK)), device="cpu")
    features = embed(runtime, [e.text for e in learn])
    settled = smoothed(targets(learn), Plan().smoothing)
    head = fit(features, settled, weights(learn), init=tuned.head, seed=SEED, schedule=SETTLE)
    figures = report(head, runtime, sets, say)
    apart = head.logits(embed(runtime, [e.text for e in sets.apart])), targets(sets.apart), weights(sets.apart)
    temperature = calibration.calibrate(*apart)
    model = artifact.make(
        head,
        temperature,
        runtime.encoding,
        dataset=hashlib.sha256("".join(sha256(data / name) for name in FILES).encode()).hexdigest(),
        parent=None,
        metrics=figures,
        examples=dict(zip(EXAMPLES, embed(runtime, EXAMPLES), strict=True)),
        languages=LANGUAGES,
        calibration=calibration.measure(*apart, temperature),
    )
    artifact.save(model, artifact.bundled())
    say(f"version {model.card.version}, temperature {temperature}, written to {artifact.bundled()}")
    return model


def train(
    base: Base, head: Head, learn: list[Example], sets: Split, plan: Plan, seed: int, say: Callable[[str], None]
) -> Tuned:
    """One run from `head`; tells the figures of each epoch, in int8 as it would serve."""

    def progress(at: Progress) -> None:
        if at.step % 100 == 0:
            say(f"step {at.step} of {at.steps}, loss {at.loss:.4f}, {at.seconds_left / 60:.1f} min left")

    def after_epoch(tuned: Tuned) -> None:
        with tempfile.TemporaryDirectory() as cache:  # an export of every epoch is nothing to keep
            runtime = open_runtime(Encoding(base, tuned.adapter(RANK)), device="cpu", cache=Path(cache))
            report(tuned.head, runtime, sets, say)

    return tune(
        base, head, Lesson([e.text for e in learn], targets(learn), weights(learn)),
        plan=plan, seed=seed, progress=progress, after_epoch=after_epoch,
    )  # fmt: skip


def read(data: Path, sources: Sequence[str] = ("tfns", "sentfin", "anchor")) -> Split:
    """The sets in their fixed splits; what is measured has no near-duplicate among what is learned. Only texts of
    `sources` are learned from.
    """
    train, valid, sentfin_path = (data / name for name in FILES)
    sentfin = list(_sentfin(sentfin_path))
    shipped = [(a, Example("anchor", a.text, _one_hot(LABELS.index(a.label)))) for a in anchors()]
    known = [*_tfns(train), *(e for number, e in sentfin if number % 10), *(e for a, e in shipped if a.replayed)]
    learn = [e for e in known if e.source in sources]
    measured = {
        "tfns_valid": _tfns(valid),
        "sentfin_holdout": (e for number, e in sentfin if number % 10 == 0 and max(e.target) == 1),
        "anchor": (e for a, e in shipped if not a.replayed),
    }
    seen = {_bare(e.text) for e in learn}
    return Split(
        [e for e in learn if not _set_apart(e.text)],
        [e for e in learn if _set_apart(e.text)],
        {name: [e for e in part if _bare(e.text) not in seen] for name, part in measured.items()},
    )


def _one_hot(label: int) -> tuple[float, float, float]:
    return (float(label == 0), float(label == 1), float(label == 2))


def _tfns(path: Path) -> Iterator[Example]:
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield Example("tfns", row["text"], _one_hot(LABELS.index(TFNS_LABELS[row["label"]])))


def _sentfin(path: Path) -> Iterator[tuple[int, Example]]:
    """(S No., headline): each entity's label has an equal share in the target."""
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                labels = list(ast.literal_eval(row["Decisions"]).values())
            except (SyntaxError, ValueError):  # 13 rows: an apostrophe inside a name
                continue
            negative, neutral, positive = (labels.count(label) / len(labels) for label in LABELS)
            yield int(row["S No."]), Example("sentfin", row["Title"], (negative, neutral, positive))


_LINK: Final = re.compile(r"https?://\S+")


def _bare(text: str) -> str:
    """What is left of a text for comparing: letters and digits, without links and case."""
    return re.sub(r"[\W_]+", " ", _LINK.sub("", text)).strip().lower()


def unlinked(examples: Iterable[Example]) -> list[Example]:
    """The tweets that end in a link, without it: in TFNS a link goes with the label, elsewhere it means nothing."""
    return [e._replace(text=_LINK.sub("", e.text).strip()) for e in examples if _LINK.search(e.text)]


def _set_apart(text: str) -> bool:
    # By bare text, so that a tweet and its copy without the link fall on one side.
    return int(derived_id("calibration", _bare(text))[:8], 16) % CALIBRATION == 0


def targets(examples: Sequence[Example]) -> np.ndarray:
    """float32[n, 3]."""
    return np.array([e.target for e in examples], np.float32)


def weights(examples: Sequence[Example]) -> np.ndarray:
    """float32[n], count^-1/4 of an example's (source, label): two thirds of the tweets are neutral and other texts
    aren't, but full balancing would call too little neutral.
    """
    counts = Counter((e.source, e.label) for e in examples)
    return np.array([counts[e.source, e.label] ** -0.25 for e in examples], np.float32)


def report(head: Head, runtime: Runtime, sets: Split, say: Callable[[str], None]) -> dict[str, float]:
    """Accuracy and macro-F1 on everything that is measured."""
    figures: dict[str, float] = {}
    for name, examples in sets.measure.items():
        accuracy, macro_f1 = measure(head, runtime, examples)
        say(f"{name}: n={len(examples)} accuracy {accuracy:.2%} macro-F1 {macro_f1:.2%}")
        figures |= {f"{name}_accuracy": round(accuracy, 4), f"{name}_macro_f1": round(macro_f1, 4)}
    return figures


def measure(head: Head, runtime: Runtime, examples: list[Example]) -> tuple[float, float]:
    """Accuracy and macro-F1."""
    truth = np.array([e.label for e in examples])
    answers = head.logits(embed(runtime, [e.text for e in examples])).argmax(axis=1)
    f1 = [
        2 * np.sum((answers == k) & (truth == k)) / max(1, np.sum(answers == k) + np.sum(truth == k))
        for k in range(len(LABELS))
    ]
    return float(np.mean(answers == truth)), float(np.mean(f1))
