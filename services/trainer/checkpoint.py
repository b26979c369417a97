"""What a run under way has come to, in one file, so that one that is killed can go on: safetensors, with all that is no
tensor as JSON in its header.

The file is named by what the run is made of. A run over other examples, from another parent, by another method or with
another seed looks for another file, and never finds this one. Nothing of any text is in it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

FOLDER: Final = "checkpoints"
"""Inside the data folder. Not in the database: at worst minutes of one machine's work are in it, it weighs up to
170 MB, and only the machine that wrote it would end with the same bits."""

log = logging.getLogger(__name__)


class State(NamedTuple):
    """Tensors by name, and what else there is as plain JSON."""

    tensors: Mapping[str, torch.Tensor]
    facts: Mapping[str, Any]


class Checkpoint:
    """The one file of a run; `made_of` tells it from every other run's."""

    def __init__(self, data: Path, made_of: Mapping[str, Any], every_s: float) -> None:
        name = hashlib.sha256(msgspec.json.encode(made_of, order="deterministic")).hexdigest()[:16]
        self.file = data / FOLDER / f"{name}.safetensors"
        self._every_s = every_s
        self._saved = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the last one is older than a run may lose."""
        return time.monotonic() - self._saved >= self._every_s

    def save(self, state: State) -> None:
        """Replace the file: whenever the process or the machine dies, there is the old one or the new one, whole."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
        content = save(tensors, {"facts": msgspec.json.encode(state.facts).decode()})
        partial = self.file.with_suffix(".partial")
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.file)
        folder = os.open(self.file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._saved = time.monotonic()

    def load(self) -> State | None:
        """What was saved last; None where nothing was, or it can't be read."""
        if not self.file.is_file():
            return None
        try:
            with safe_open(self.file, "pt") as file:
                facts = msgspec.json.decode(file.metadata()["facts"])
                return State({name: file.get_tensor(name) for name in file.keys()}, facts)  # noqa: SIM118 (no mapping)
        except (OSError, SafetensorError, msgspec.DecodeError, KeyError, TypeError) as error:
            log.warning("the checkpoint %s can't be read, so the run starts afresh: %s", self.file, error)
            return None


def forget(data: Path) -> None:
    """Delete what runs left: one is decided, and only one is under way at a time."""
    shutil.rmtree(data / FOLDER, ignore_errors=True)
