"""A model as files: `head.safetensors`, `model.json` and, where the encoder was tuned, `adapter.safetensors`, over a
base that is named by the hashes of its files.

The version is derived from everything that makes the answers and their marks: head, adapter, base, export, labels,
temperature, languages, threshold. Equal content is the same version, and a file that was changed no longer has its
version.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta, Struct

from services.score import adapter as adapters
from services.score import head as heads
from services.score import labels as label_maps
from services.score.adapter import Adapter
from services.score.base import EXPORT, LOGITS, BaseFiles, Encoding, adapter_hash
from services.score.head import Head, to_bytes
from services.score.labels import LabelMap
from services.stream.errors import Rejected
from services.stream.events import LABELS

CARD: Final = "model.json"
HEAD: Final = "head.safetensors"
ADAPTER: Final = "adapter.safetensors"
TOLERANCE: Final = 0.05
"""Of a stored probability. Other processors round otherwise, and a rounding that flips in int8 is amplified by later
layers; a wrong file is off by much more on some example."""

READERS: Final[Mapping[str, Callable[[bytes], Head | LabelMap]]] = {
    EXPORT: heads.from_bytes,
    LOGITS: label_maps.from_bytes,
}
"""What reads the head over each kind of features; a model over others is from another release."""

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
"""Written for this project; a model's own answers to them recognise it on another machine."""

Hash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Answered(Struct, frozen=True):
    """A text written for this project, and the model's own answer to it (negative, neutral, positive)."""

    text: str
    probabilities: tuple[float, float, float]


class Group(Struct, frozen=True):
    """Texts, the mean of their confidence (the greatest probability), and how often their label is right."""

    n: int
    confidence: float
    accuracy: float


class Calibration(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a model's confidence can be believed, and when it abstains; see `services.trainer.calibration`."""

    texts: int
    """Held out, each judged by what was fitted on others."""
    ece: float
    """Expected calibration error over `bins`."""
    ece_by_chance: float
    """What it is expected to be where each confidence is exactly right, for want of texts."""
    coverage: float
    """Share of texts like those that the model is to answer; from the others it abstains."""
    threshold: Annotated[float, Meta(ge=0, le=1)]
    """Least confidence of an answer."""
    answered: Group
    abstained: Group
    bins: tuple[Group, ...]
    """The reliability diagram, by rising confidence."""


class ModelCard(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`model.json`: what a model is, what it was made of, and how to recognise it."""

    version: str
    labels: tuple[str, ...]
    temperature: Annotated[float, Meta(gt=0)]
    """Logits are divided by it (Guo et al. 2017, "On Calibration of Modern Neural Networks")."""
    base: BaseFiles
    export: str
    """The features that the head expects, as `services.score.base` named them when it was made."""
    head: Hash
    adapter: Hash | None
    dataset: str
    """SHA-256 over the ids and labels, or the files, that it learned from; empty where nobody here knows them."""
    parent: str | None
    """Version it was trained on from."""
    metrics: dict[str, float]
    created: int
    """Milliseconds since the epoch."""
    examples: tuple[Answered, ...]
    tolerance: float
    languages: tuple[str, ...] = ()
    """ISO 639-1 codes of what it reads; when empty, nothing is known of it and no text is marked as foreign."""
    calibration: Calibration | None = None
    """Without it, as on older cards and those of classifiers of one's own, the model never abstains."""

    @property
    def threshold(self) -> float | None:
        """Least confidence of an answer; None where the model never abstains."""
        return self.calibration.threshold if self.calibration else None


class Model(NamedTuple):
    """A verified card with its head and adapter."""

    card: ModelCard
    head: Head | LabelMap
    adapter: Adapter


def version_of(
    head: str,
    adapter: str | None,
    base: BaseFiles,
    export: str,
    labels: Sequence[str],
    temperature: float,
    languages: Sequence[str],
    threshold: float | None = None,
) -> str:
    """12 hex digits of SHA-256 over all that makes the answers and their marks; `head` and `adapter` are hashes."""
    parts = [head, adapter, base.weights, base.tokenizer, base.config, export, list(labels), temperature, *languages]
    if threshold is not None:  # a model without one keeps the version that it has always had
        parts.append(threshold)
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:12]


def make(
    head: Head | LabelMap,
    temperature: float,
    encoding: Encoding,
    *,
    dataset: str,
    parent: str | None,
    metrics: Mapping[str, float],
    examples: Mapping[str, np.ndarray],
    languages: Sequence[str],
    calibration: Calibration | None = None,
) -> Model:
    """A model of a head over an encoding; `examples` maps texts to their features float32[d]."""
    threshold = calibration.threshold if calibration else None
    head_hash, adapter = hashlib.sha256(to_bytes(head)).hexdigest(), adapter_hash(encoding.adapter)
    base = encoding.base.files
    answers = head.probabilities(np.stack(list(examples.values())), temperature).round(6)
    card = ModelCard(
        version=version_of(head_hash, adapter, base, encoding.export, LABELS, temperature, languages, threshold),
        labels=LABELS,
        temperature=temperature,
        base=base,
        export=encoding.export,
        head=head_hash,
        adapter=adapter,
        dataset=dataset,
        parent=parent,
        metrics=dict(metrics),
        created=time.time_ns() // 1_000_000,
        examples=tuple(Answered(text, (p[0], p[1], p[2])) for text, p in zip(examples, answers.tolist(), strict=True)),
        tolerance=TOLERANCE,
        languages=tuple(languages),
        calibration=calibration,
    )
    return Model(card, head, encoding.adapter)


def files_of(model: Model) -> dict[str, bytes]:
    """The model's files by name, the card last; equal models give equal bytes."""
    card = msgspec.json.format(msgspec.json.encode(model.card), indent=2) + b"\n"
    weights = {ADAPTER: adapters.to_bytes(model.adapter)} if model.adapter else {}
    return {**weights, HEAD: to_bytes(model.head), CARD: card}


def save(model: Model, folder: Path) -> None:
    """Write the files into `folder`, the card last, each replaced whole."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files_of(model).items():
        partial = folder / f".{name}.partial"
        partial.write_bytes(content)
        partial.replace(folder / name)


def load(folder: Path) -> Model:
    """Read a model and check it against its own card.

    Raises:
        Rejected: a file is missing or malformed, or isn't what the card says; the detail names what differs.
    """
    try:
        card = msgspec.json.decode((folder / CARD).read_bytes(), type=ModelCard)
    except (OSError, msgspec.DecodeError) as error:
        raise Rejected("tampered", f"{folder} holds no model: {error}") from None
    head = _content(folder / HEAD, card.head)
    adapter = _content(folder / ADAPTER, card.adapter) if card.adapter else None
    derived = version_of(
        card.head, card.adapter, card.base, card.export, card.labels, card.temperature, card.languages, card.threshold
    )
    if derived != card.version:
        raise Rejected("tampered", f"{CARD} says version {card.version}, its content makes {derived}")
    if card.labels != LABELS:
        raise Rejected("labels", f"the model answers {', '.join(card.labels)}; this release knows {', '.join(LABELS)}")
    if card.export not in READERS:
        known = " and ".join(READERS)
        raise Rejected("export", f"the head was trained on features {card.export}; this release makes {known}")
    return Model(card, READERS[card.export](head), adapters.from_bytes(adapter) if adapter else {})


def _content(path: Path, wanted: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Rejected("tampered", f"{path.parent} holds no model: {error}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != wanted:
        raise Rejected("tampered", f"{path.name} has SHA-256 {found}, {CARD} says {wanted}")
    return content


def differences(card: ModelCard, answers: np.ndarray) -> list[str]:
    """Where float64[n, 3] answers to the stored examples leave the tolerance or the label; empty when none does."""
    found = []
    for example, answer in zip(card.examples, answers, strict=True):
        stored = np.array(example.probabilities)
        if stored.argmax() != answer.argmax() or np.abs(stored - answer).max() > card.tolerance:
            found.append(f"{example.text!r}: stored {_shown(stored)}, now {_shown(answer)}")
    return found


def _shown(probabilities: np.ndarray) -> str:
    return "/".join(f"{p:.3f}" for p in probabilities)


def bundled() -> Path:
    """Folder of the model that the project ships."""
    with as_file(files("services.score") / "bundled") as folder:
        return folder
