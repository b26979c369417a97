"""A model's files: equal content is the same version, and whatever was changed is noticed and named."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from services.score import artifact
from services.score.base import BaseFiles, find
from services.score.engine import Engine, open_engine
from services.score.head import from_bytes, to_bytes
from services.stream.errors import Misconfigured, Rejected
from services.stream.events import LABELS
from services.trainer.anchors import anchors


def edit(folder: Path, **changes: Any) -> None:
    card = msgspec.json.decode((folder / artifact.CARD).read_bytes())
    (folder / artifact.CARD).write_bytes(msgspec.json.encode(card | changes))


def test_what_is_saved_is_loaded(copied: Path) -> None:
    one, other = artifact.load(copied), artifact.load(artifact.bundled())
    assert one.card == other.card
    assert all(np.array_equal(a, b) for a, b in zip(one.head, other.head, strict=True))
    assert sorted(path.name for path in copied.iterdir()) == [artifact.ADAPTER, artifact.HEAD, artifact.CARD]


def test_the_version_follows_the_content(engine: Engine) -> None:
    card = engine.card
    given = (card.head, card.adapter, card.base, card.export, card.labels)
    assert artifact.version_of(*given, card.temperature, card.languages, card.threshold) == card.version
    assert len(card.version) == 12
    assert artifact.version_of(*given, card.temperature + 0.1, card.languages, card.threshold) != card.version
    assert artifact.version_of(*given, card.temperature, ("en", "zh"), card.threshold) != card.version
    assert artifact.version_of(*given, card.temperature, card.languages, 0.4) != card.version
    assert artifact.version_of(*given, card.temperature, card.languages) != card.version


@pytest.mark.parametrize("position", [-1, 40, 5_000])
def test_a_tampered_head_is_refused(copied: Path, position: int) -> None:
    content = bytearray((copied / artifact.HEAD).read_bytes())
    content[position] ^= 1
    (copied / artifact.HEAD).write_bytes(content)
    with pytest.raises(Rejected, match=r"head\.safetensors has SHA-256 [0-9a-f]{64}, model\.json says"):
        open_engine(copied)


def test_a_tampered_temperature_is_refused(copied: Path) -> None:
    edit(copied, temperature=0.01)
    with pytest.raises(Rejected, match="its content makes"):
        artifact.load(copied)


def test_a_model_without_a_threshold_keeps_the_version_it_had_before_there_were_any() -> None:
    base = BaseFiles(name="x", weights="b" * 64, tokenizer="c" * 64, config="d" * 64)
    given = ("a" * 64, None, base, "x.1", LABELS, 1.25, ("en",))
    assert artifact.version_of(*given) == "a4b6530a246b"
    assert artifact.version_of(*given, 0.5) != "a4b6530a246b"


def test_a_tampered_threshold_is_refused(copied: Path, engine: Engine) -> None:
    edit(copied, calibration=msgspec.to_builtins(engine.card.calibration) | {"threshold": 0.99})
    with pytest.raises(Rejected, match="its content makes"):
        artifact.load(copied)


def test_a_card_from_before_there_was_calibration_is_read_and_keeps_its_version(copied: Path, engine: Engine) -> None:
    card = msgspec.to_builtins(engine.card)
    del card["calibration"]
    given = (engine.card.head, engine.card.adapter, engine.card.base, engine.card.export, engine.card.labels)
    card["version"] = artifact.version_of(*given, engine.card.temperature, engine.card.languages)
    (copied / artifact.CARD).write_bytes(msgspec.json.encode(card))
    assert artifact.load(copied).card.threshold is None


def test_a_forged_head_with_its_own_hash_is_another_version(copied: Path, engine: Engine) -> None:
    forged = to_bytes(engine.model.head._replace(bias=np.array([9, 0, 0], np.float32)))
    (copied / artifact.HEAD).write_bytes(forged)
    edit(copied, head=hashlib.sha256(forged).hexdigest())
    with pytest.raises(Rejected, match="says version"):
        artifact.load(copied)


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": ["down", "flat", "up"]},
        {"temperature": -1},
        {"head": "abc"},
        {"unknown": 1},
        {"base": None},
        {"calibration": {"threshold": 0.5}},
        {"calibration": None},
    ],
)
def test_a_bad_card_is_refused(copied: Path, changes: dict[str, Any]) -> None:
    edit(copied, **changes)
    with pytest.raises(Rejected):
        artifact.load(copied)


def test_a_model_for_other_features_is_refused(copied: Path, engine: Engine) -> None:
    card = engine.card
    version = artifact.version_of(
        card.head, card.adapter, card.base, "other.1", card.labels, card.temperature, card.languages, card.threshold
    )
    edit(copied, export="other.1", version=version)
    with pytest.raises(Rejected, match=r"trained on features other\.1"):
        artifact.load(copied)


def test_another_encoder_than_the_models_is_refused(copied: Path, engine: Engine) -> None:
    card = engine.card
    base = msgspec.structs.replace(card.base, weights="0" * 64)
    version = artifact.version_of(
        card.head, card.adapter, base, card.export, card.labels, card.temperature, card.languages, card.threshold
    )
    edit(copied, base=msgspec.to_builtins(base), version=version)
    with pytest.raises(Misconfigured, match=r"model\.safetensors is 53aa5117[0-9a-f]+, not 0000"):
        open_engine(copied)


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="holds no model"):
        artifact.load(tmp_path)


def test_only_float32_heads_of_fitting_shapes_are_read(engine: Engine) -> None:
    head = engine.model.head
    for bad in (
        head._replace(bias=np.zeros(4, np.float32)),
        head._replace(bias=np.zeros(3, np.float64)),
        head._replace(hidden_weights=np.zeros(3, np.float32)),
        head._replace(bias=np.array([0, np.nan, 0], np.float32)),
    ):
        with pytest.raises(Rejected):
            from_bytes(to_bytes(bad))
    with pytest.raises(Rejected, match="not a head"):
        from_bytes(b"\x80\x04K\x01.")  # a pickle


def test_the_card_states_what_the_model_does(engine: Engine) -> None:
    """The anchor set's other half is the one measured set that is here; the card's figure for it is reproduced."""
    measured = [anchor for anchor in anchors() if not anchor.replayed]
    answers = engine.score([anchor.text for anchor in measured])
    right = np.mean([a.label == anchor.label for a, anchor in zip(answers, measured, strict=True)])  # type: ignore[union-attr]
    assert right == pytest.approx(engine.card.metrics["anchor_accuracy"], abs=0.01)


def test_the_bundled_base_is_the_pinned_one(engine: Engine) -> None:
    assert engine.card.base == find().files
    assert len(engine.card.examples) >= 8
    assert engine.card.languages == ("en",)
