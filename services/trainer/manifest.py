"""A run's dataset as a list of ids: what taught and what measured, with its weight, its label and whose words made it.

No text is in it, so that erasing a text needn't touch it. It is stored by its hash, which the run and its model's card
name; `assembly.assemble(cursor, cut=manifest.cut)` reads the same dataset again, from the log and the texts still kept.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from typing import Final, Literal, get_args

import msgspec
from psycopg2 import Binary
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from services.runtime import now_ms
from services.stream.errors import Rejected
from services.stream.events import LABELS, Label
from services.trainer.dataset import BaseFile, Cut, Dataset

Role = Literal["learn", "replay", "live", "measure", "anchor"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
TEACHING: Final = ROLES[:3]
RUN_DIGITS: Final = 6
"""A number of so many digits at most is a run's, and not how a hash begins."""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One text. `label` is null where the parent's own answer is kept."""

    role: Role
    id: str
    """Of the example, of the anchor, or of the text where nobody labelled it."""
    text_id: str
    """Empty for what is no text of the stream."""
    label: Label | None
    weight: float
    feedback: tuple[str, ...]


class Manifest(msgspec.Struct, frozen=True):
    """One dataset. `hash` covers `entries` and `base`."""

    entries: tuple[Entry, ...]
    base: tuple[BaseFile, ...]
    cut: Cut
    left_out: dict[str, int]

    @property
    def hash(self) -> str:
        """SHA-256, hexadecimal."""
        return hashlib.sha256(msgspec.json.encode((self.entries, self.base))).hexdigest()


class Shown(msgspec.Struct, frozen=True):
    """A stored manifest, the runs that took it and the models that came of it."""

    hash: str
    runs: list[int]
    models: list[str]
    manifest: Manifest


def of(data: Dataset) -> Manifest:
    """The manifest of a dataset; equal content gives an equal hash, in whatever order it was read."""
    return Manifest(tuple(sorted(_entries(data), key=_place)), data.base, data.cut, dict(data.left_out))


def _entries(data: Dataset) -> Iterator[Entry]:
    parts: dict[Role, list] = {  # type: ignore[type-arg]
        "learn": data.learn, "replay": data.replay, "measure": data.measure, "anchor": data.anchor,
    }  # fmt: skip
    for role, part in parts.items():
        weigh = role in TEACHING
        for e in part:
            weight = round(e.weight, 6) if weigh else 0.0
            yield Entry(role, e.example_id, e.text_id, LABELS[e.label], weight, e.feedback)
    for t in data.live:
        yield Entry("live", t.text_id, t.text_id, None, round(t.weight, 6), ())


def _place(entry: Entry) -> tuple[str, str]:
    return entry.role, entry.id


def keep(cursor: Cursor, run: int, manifest: Manifest) -> None:
    """Store it as what `run` learns from; its texts can never measure again."""
    cursor.execute(
        "INSERT INTO manifest (hash, content, created) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
        (manifest.hash, Binary(zlib.compress(msgspec.json.encode(manifest))), now_ms()),
    )
    cursor.execute("UPDATE training_run SET manifest = %s WHERE run = %s", (manifest.hash, run))
    taught = sorted({e.text_id for e in manifest.entries if e.role in TEACHING and e.text_id})
    if taught:
        execute_values(
            cursor,
            "INSERT INTO learned_text (text_id, run) VALUES %s ON CONFLICT DO NOTHING",
            [(text_id, run) for text_id in taught],
            page_size=1_000,
        )


def load(cursor: Cursor, name: str) -> Shown:
    """The manifest of a run, by its number, or by its hash or how that begins.

    Raises:
        Rejected: there is none, more than one, or its content doesn't have its hash.
    """
    if name.isdecimal() and len(name) <= RUN_DIGITS:
        cursor.execute("SELECT manifest FROM training_run WHERE run = %s AND manifest IS NOT NULL", (int(name),))
    else:
        cursor.execute("SELECT hash FROM manifest WHERE left(hash, %s) = %s", (len(name), name.lower()))
    found = [digest for (digest,) in cursor.fetchall()] if len(name) else []
    if len(found) != 1:
        problem = "begins the hashes of several manifests" if found else "names no run with a manifest, and no manifest"
        raise Rejected("unknown", f"{name!r} {problem}; `tickerloop train why` shows the runs")
    return _shown(cursor, found[0])


def decoded(content: bytes | memoryview) -> Manifest:
    """What is stored of one."""
    return msgspec.json.decode(zlib.decompress(bytes(content)), type=Manifest)


def _shown(cursor: Cursor, digest: str) -> Shown:
    cursor.execute("SELECT content FROM manifest WHERE hash = %s", (digest,))
    (content,) = cursor.fetchone() or (b"",)
    manifest = decoded(content)
    if manifest.hash != digest:
        raise Rejected("tampered", f"the manifest {digest} does not have its recorded hash")
    cursor.execute("SELECT run FROM training_run WHERE manifest = %s ORDER BY run", (digest,))
    runs = [run for (run,) in cursor.fetchall()]
    cursor.execute("SELECT version FROM model_version WHERE card->>'dataset' = %s ORDER BY created", (digest,))
    return Shown(digest, runs, [version for (version,) in cursor.fetchall()], manifest)
