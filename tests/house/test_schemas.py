"""The published schemas are what the code says, what it writes fits them, and no migration changes once it is out."""

from __future__ import annotations

import hashlib
import json

import jsonschema
import pytest

from schemas.generate import FOLDER, KINDS, schema
from services.stream.events import Origin, Prediction, encode


@pytest.mark.parametrize("topic", KINDS)
def test_schema_has_not_drifted(topic: str) -> None:
    written = (FOLDER / f"{topic}.json").read_text(encoding="utf-8")
    assert written == schema(topic), "run `python -m schemas.generate` and commit the change"


def test_no_schema_without_a_topic() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(KINDS)


def _prediction(label: str) -> dict[str, object]:
    event = Prediction(
        prediction_id="p",
        text_id="t",
        cluster="t",
        label=label,  # type: ignore[arg-type]
        probabilities=(0.1, 0.2, 0.7),
        model="m",
        epoch=1,
        source="s",
        language="en",
        event_time=0,
        scored=0,
        origin=Origin("texts.clean", 0, 0),
    )
    found: dict[str, object] = json.loads(encode(event))
    return found


def test_what_is_written_fits_its_schema() -> None:
    jsonschema.validate(_prediction("positive"), json.loads(schema("predictions")))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(_prediction("bullish"), json.loads(schema("predictions")))


def test_no_migration_changed_after_it_was_pinned() -> None:
    folder = FOLDER.parent / "sql"
    found = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("*.sql")}
    pinned = (line.split() for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines())
    assert found == {name: digest for digest, name in pinned}, (
        "a database that applied a migration never sees its changes: write a new one, then in schemas/sql "
        "`sha256sum *.sql > SHA256SUMS`"
    )
