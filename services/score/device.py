"""Which device scores and why, how many lanes it has, and what the CPU has for int8. Imports nothing that is slow to
import, and torch only where an NVIDIA driver is."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Final, NamedTuple

from services.stream.errors import Misconfigured

DRIVER: Final = Path("/proc/driver/nvidia/version")
"""Is there while an NVIDIA driver is loaded."""
GPUS: Final = Path("/proc/driver/nvidia/gpus")
"""Holds a folder for each."""
VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
"""Names those that CUDA shows to a process; read when it starts."""
CPUINFO: Final = Path("/proc/cpuinfo")
GPU_LANES: Final = 2
"""One batch is padded and copied while the other is computed."""
INT8_FLAGS: Final = {
    "amx_int8": "AMX",
    "avx512_vnni": "VNNI",
    "avx_vnni": "VNNI",
    "i8mm": "I8MM",
    "asimddp": "dot product",
}
"""What Linux calls the instructions by which int8 is fastest, x86's and ARM's, and what their makers call them."""


class Choice(NamedTuple):
    """A device, and the reason for it in words."""

    device: str
    """`cpu` or `cuda`."""
    why: str


def choose(device: str) -> Choice:
    """What `device`, which is auto, cpu or cuda, comes to here.

    Raises:
        Misconfigured: cuda is asked for and there is none, or `device` is something else.
    """
    if device not in {"auto", "cpu", "cuda"}:
        raise Misconfigured(f"the device is {device!r}; it takes auto, cpu or cuda")
    if device == "cpu":
        return Choice("cpu", "TICKERLOOP_DEVICE=cpu")
    if device == "auto" and not DRIVER.exists():
        return Choice("cpu", "no NVIDIA driver here")
    import torch

    if torch.cuda.is_available():
        return Choice("cuda", f"{torch.cuda.get_device_name()}, bf16")
    if device == "cuda":
        raise Misconfigured("device is cuda, but torch finds no GPU; set TICKERLOOP_DEVICE=cpu or auto")
    if torch.version.cuda is None:
        return Choice("cpu", "an NVIDIA driver is here, but torch is built without CUDA")
    return Choice("cpu", "an NVIDIA driver is here, but torch finds no GPU")


def take_one(slot: int, environment: MutableMapping[str, str] = os.environ) -> None:
    """Of several GPUs let this process see one only, by its slot, so that each worker has its own; to be called before
    torch is imported."""
    named = environment.get(VISIBLE)
    count = len(list(GPUS.iterdir())) if GPUS.exists() else 0
    gpus = named.split(",") if named is not None else [str(number) for number in range(count)]
    if len(gpus) > 1:
        environment[VISIBLE] = gpus[slot % len(gpus)]


def lanes(device: str, threads: int) -> int:
    """How many batches run at once; on the CPU `threads`, or as many as there are cores where that is 0."""
    return GPU_LANES if device == "cuda" else threads or cores()


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def int8_instructions() -> tuple[str, ...] | None:
    """Those that the CPU has for products of int8, fastest first; None where there is no telling."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:  # no Linux
        return None
    flags = next((line.split() for line in lines if line.startswith(("flags", "Features"))), None)
    if flags is None:
        return None
    return tuple(dict.fromkeys(name for flag, name in INT8_FLAGS.items() if flag in flags))
