"""The engine on a GPU against the transformers pipeline on the same GPU: `python -m ops.bench.gpu`.

Nothing is downloaded: the BERT-base shape has random weights, MiniLM is the bundled base, and the texts are the demo's,
put together anew. Both arms give labels from texts, tokenising included; the GPU's utilisation is sampled meanwhile.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any, Final

import click
import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertModel, pipeline

from ops.bench.common import console, machine, write
from services.score.base import BUNDLED, TOKENIZER, Base, Encoding, find
from services.score.engine import GPU_BUDGET, Runtime, embed, open_runtime
from services.score.lanes import Lanes
from services.score.tokens import MAX_TOKENS

DEMO: Final = Path(__file__).parents[2] / "services" / "demo" / "stream.jsonl"
TEXTS: Final = 65_536
PIPELINE_TEXTS: Final = 8_192
WORDS: Final = (8, 24)
"""Fewest and most words of a text: 22 tokens on the mean, as headlines and tweets have."""
SEED: Final = 7


def main() -> None:
    """Run both shapes and write var/bench/gpu.json."""
    if not torch.cuda.is_available():
        sys.exit("torch finds no GPU here")
    texts = _texts()
    figures: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "texts": TEXTS}
    with tempfile.TemporaryDirectory() as folder:
        figures["bert_base"] = shape(_bert_base(Path(folder)), texts)
    figures["minilm"] = shape(find(BUNDLED), texts)
    path = write("gpu", figures, machine())
    click.echo(json.dumps(figures, indent=2))
    console.print(f"written to {path}")


def shape(base: Base, texts: Sequence[str]) -> dict[str, Any]:
    """Texts per second of the pipeline, and of the engine by tokens of a batch."""
    rates = {"pipeline": _rate(_pipeline(base, list(texts[:PIPELINE_TEXTS])), PIPELINE_TEXTS)}
    runtime = open_runtime(Encoding(base), device="cuda")
    head = np.zeros((embed(runtime, ["warm"]).shape[1], 3), np.float32)
    for budget in (GPU_BUDGET // 2, GPU_BUDGET, 2 * GPU_BUDGET):
        lanes = Lanes(runtime.lanes.encoder, budget, runtime.lanes.count)
        rates[f"engine, {budget} tokens"] = _rate(partial(_labels, runtime, lanes, head, texts), len(texts))
    best = max(rate["texts_per_s"] for rate in rates.values())
    return {**rates, "times_the_pipeline": round(best / rates["pipeline"]["texts_per_s"], 2)}


def _pipeline(base: Base, texts: list[str]) -> Callable[[], object]:
    tokenizer = AutoTokenizer.from_pretrained(str(base.folder))
    model = AutoModelForSequenceClassification.from_pretrained(str(base.folder), num_labels=3)
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, batch_size=32, device="cuda:0")
    return lambda: classify(texts, truncation=True, max_length=MAX_TOKENS)


def _labels(runtime: Runtime, lanes: Lanes, head: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    found: np.ndarray = (embed(runtime._replace(lanes=lanes), texts) @ head).argmax(axis=1)
    return found


def _rate(arm: Callable[[], object], texts: int) -> dict[str, float]:
    """Median of three runs after one to warm up, with the mean utilisation in percent."""
    arm()
    seconds = []
    with _Utilisation() as used:
        for _ in range(3):
            torch.cuda.synchronize()
            started = time.perf_counter()
            arm()
            seconds.append(time.perf_counter() - started)
    return {"texts_per_s": round(texts / median(seconds), 1), "utilisation": round(mean(used.samples or [0.0]), 1)}


class _Utilisation:
    """Samples nvidia-smi while it is open."""

    def __enter__(self) -> _Utilisation:
        self.samples: list[float] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def _sample(self) -> None:
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not self._done.wait(0.1):
            self.samples.append(
                float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0])
            )

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def _texts() -> list[str]:
    """From the demo's words, of the lengths that headlines have."""
    words = " ".join(json.loads(line).get("text", "") for line in _valid(DEMO)).split()
    chance = random.Random(SEED)
    return [" ".join(chance.choices(words, k=chance.randint(*WORDS))) for _ in range(TEXTS)]


def _valid(path: Path) -> list[str]:
    """The lines that are objects with a text: some of the demo's are broken on purpose."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if isinstance(json.loads(line)["text"], str):
                found.append(line)
        except (ValueError, TypeError, KeyError):
            continue
    return found


def _bert_base(folder: Path) -> Base:
    """BERT-base by shape, with MiniLM's tokenizer, which has the same vocabulary."""
    torch.manual_seed(SEED)
    BertModel(BertConfig()).save_pretrained(folder)  # type: ignore[no-untyped-call]
    (folder / TOKENIZER).write_bytes((find(BUNDLED).folder / TOKENIZER).read_bytes())
    return find(str(folder))


if __name__ == "__main__":
    main()
