"""The bundled model, from labelled sets to files: `python -m services.trainer.recipe --data DIR`.

DIR holds `tfns_train.csv`, `tfns_valid.csv` and `sentfin.csv`. Their texts are other people's and stay out of the
repository: only the weights are shipped, with their attribution. Everything is seeded, so that the same machine makes
the same head again.
"""

from __future__ import annotations

import argparse
import ast
import csv
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from services.score import artifact
from services.score.artifact import Model
from services.score.base import BUNDLED, find, sha256
from services.score.engine import Runtime, embed, open_runtime
from services.score.head import Head
from services.stream.events import LABELS, derived_id
from services.trainer.anchors import anchors
from services.trainer.head import calibrate, fit

FILES: Final = ("tfns_train.csv", "tfns_valid.csv", "sentfin.csv")
TFNS_LABELS: Final = {"0": "negative", "1": "positive", "2": "neutral"}
SEED: Final = 20_250_101
CALIBRATION: Final = 10
"""One text in so many measures the temperature."""

EXAMPLES: Final = (
    "Harbour Lane Foods lifts its full-year profit outlook after record orders",
    "Quarterly profit at Ostrava Gear doubles and beats every estimate",
    "$DLTR upgraded to buy, price target raised",
    "Shares of Kestrel Air soar after it wins a big contract",
    "Norvik Shipping slumps to a loss as freight rates collapse",
    "$XPEV plunges after weak guidance and a downgrade to sell",
    "Brightwell Homes cuts its dividend and warns on full-year profit",
    "Regulator fines Calder Bank over failures in its controls",
    "The annual general meeting of Tolna Paper will be held on 12 May in Budapest",
    "Stocks to watch today: seven names on our list",
)
"""Written for this project; the model's own answers to them recognise it on another machine."""


class Example(NamedTuple):
    """A labelled text of one source."""

    source: str
    text: str
    label: int


class Split(NamedTuple):
    """What is learned and what is measured, by name of the measure."""

    learn: list[Example]
    measure: dict[str, list[Example]]


def main(data: Path) -> Model:
    """Train, measure, and write the bundled model's files."""
    sets = read(data)
    runtime = open_runtime(find(BUNDLED), device="cpu")
    learn = [*sets.learn, *unlinked(sets.learn)]
    features = embed(runtime, [e.text for e in learn])
    temperature, head = train(features, learn)
    figures: dict[str, float] = {}
    for name, examples in sets.measure.items():
        accuracy, macro_f1 = measure(head, runtime, examples)
        print(f"{name}: n={len(examples)} accuracy {accuracy:.1%} macro-F1 {macro_f1:.1%}")
        figures |= {f"{name}_accuracy": round(accuracy, 4), f"{name}_macro_f1": round(macro_f1, 4)}
    model = artifact.make(
        head,
        temperature,
        find(BUNDLED).files,
        dataset=hashlib.sha256("".join(sha256(data / name) for name in FILES).encode()).hexdigest(),
        parent=None,
        metrics=figures,
        examples=dict(zip(EXAMPLES, embed(runtime, EXAMPLES), strict=True)),
    )
    artifact.save(model, artifact.bundled())
    print(f"version {model.card.version}, temperature {temperature}, written to {artifact.bundled()}")
    return model


def read(data: Path) -> Split:
    """Both sets in their fixed splits; what is measured has no near-duplicate among what is learned."""
    train, valid, sentfin_path = (data / name for name in FILES)
    sentfin = list(_sentfin(sentfin_path))
    learn = [*_tfns(train), *(e for number, e in sentfin if number % 10)]
    known = {_bare(e.text) for e in learn}
    measured = {
        "tfns_valid": _tfns(valid),
        "sentfin_holdout": (e for number, e in sentfin if number % 10 == 0),
        "anchor": (Example("anchor", a.text, LABELS.index(a.label)) for a in anchors()),
    }
    return Split(learn, {name: [e for e in part if _bare(e.text) not in known] for name, part in measured.items()})


def _tfns(path: Path) -> Iterator[Example]:
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield Example("tfns", row["text"], LABELS.index(TFNS_LABELS[row["label"]]))


def _sentfin(path: Path) -> Iterator[tuple[int, Example]]:
    """(S No., headline), of those whose entities all have one label: the others have no single truth."""
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                labels = set(ast.literal_eval(row["Decisions"]).values())
            except (SyntaxError, ValueError):  # 13 rows: an apostrophe inside a name
                continue
            if len(labels) == 1:
                yield int(row["S No."]), Example("sentfin", row["Title"], LABELS.index(labels.pop()))


_LINK: Final = re.compile(r"https?://\S+")


def _bare(text: str) -> str:
    """What is left of a text for comparing: letters and digits, without links and case."""
    return re.sub(r"[\W_]+", " ", _LINK.sub("", text)).strip().lower()


def unlinked(examples: Iterable[Example]) -> list[Example]:
    """The tweets that end in a link, without it: in TFNS a link goes with the label, elsewhere it means nothing."""
    return [e._replace(text=_LINK.sub("", e.text).strip()) for e in examples if _LINK.search(e.text)]


def train(features: np.ndarray, examples: list[Example]) -> tuple[float, Head]:
    """Temperature and head: the first measured on a tenth that a head hasn't seen, the second fitted on everything."""
    targets = np.eye(len(LABELS), dtype=np.float32)[[e.label for e in examples]]
    weights = _weights(examples)
    apart = np.array([_set_apart(e.text) for e in examples])
    trial = fit(features[~apart], targets[~apart], weights[~apart], seed=SEED)
    temperature = calibrate(trial.logits(features[apart]), targets[apart], weights[apart])
    return temperature, fit(features, targets, weights, seed=SEED)


def _set_apart(text: str) -> bool:
    # By bare text, so that a tweet and its copy without the link fall on one side.
    return int(derived_id("calibration", _bare(text))[:8], 16) % CALIBRATION == 0


def _weights(examples: list[Example]) -> np.ndarray:
    """float32[n], count^-1/4 of an example's (source, label): two thirds of the tweets are neutral and other texts
    aren't, but full balancing would call too little neutral.
    """
    counts = Counter((e.source, e.label) for e in examples)
    return np.array([counts[e.source, e.label] ** -0.25 for e in examples], np.float32)


def measure(head: Head, runtime: Runtime, examples: list[Example]) -> tuple[float, float]:
    """Accuracy and macro-F1."""
    truth = np.array([e.label for e in examples])
    answers = head.logits(embed(runtime, [e.text for e in examples])).argmax(axis=1)
    f1 = [
        2 * np.sum((answers == k) & (truth == k)) / max(1, np.sum(answers == k) + np.sum(truth == k))
        for k in range(len(LABELS))
    ]
    return float(np.mean(answers == truth)), float(np.mean(f1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train the bundled model and write its files.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the labelled sets")
    main(parser.parse_args().data)
