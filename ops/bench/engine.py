"""The engine against what a user would pick instead: the same base, the same texts, one machine, in turn.

Every arm gets texts and gives labels, tokenising included. The rivals run the base with a linear classifier, as
`AutoModelForSequenceClassification` makes it; ours runs the bundled model, whose head is the larger one.
"""

from __future__ import annotations

import os
import queue
import random
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from onnx.numpy_helper import from_array
from onnxruntime.quantization import quantize_dynamic
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from ops.bench.common import ROOT, console
from services.score import artifact
from services.score.base import find
from services.score.batching import plan
from services.score.bert import CONTRIB, OPSET, Shape, shape
from services.score.engine import Engine, open_engine
from services.score.tokens import MAX_TOKENS

TEXTS: Final = 4_096
SEED: Final = 7
RIVAL_BUDGET: Final = 1_024
LENGTHS: Final = (8, 32, 128, 512)
"""Tokens; the engine reads the first 256 of a text."""
BY_LENGTH_TOKENS: Final = 32_768
PRODUCT: Final = (384, 384, 1_536)
"""Rows, inputs and outputs of the product that the machine's peak is taken from: the encoder's widest, of one batch."""
PEAK_S: Final = 2.0
WAITS_MS: Final = (0, 5, 20, 50)
LOAD: Final = 0.7
WAIT_TEXTS: Final = 8_192

Arm = Callable[[Sequence[str]], object]


def run(texts: Sequence[str], runs: int) -> dict[str, Any]:
    """Texts per second of each arm, their ratio to the pipeline's, and the engine's by length of text."""
    chosen = random.Random(SEED).sample(list(texts), min(TEXTS, len(texts)))
    engine = open_engine(artifact.bundled(), device="cpu", cache=ROOT / "var" / "models")
    with tempfile.TemporaryDirectory() as folder:
        arms = {**rivals(Path(folder)), "engine": engine.score}
        seconds = timed({name: (arm, chosen) for name, arm in arms.items()}, runs)
    rates = {name: round(len(chosen) / spent, 1) for name, spent in seconds.items()}
    tokens = [len(found.ids) for found in engine.runtime.tokenizer(chosen)]  # type: ignore[union-attr]
    figures = {
        "texts": len(chosen),
        "mean_tokens": round(float(np.mean(tokens)), 1),
        "texts_per_s": rates,
        "times_the_pipeline": {name: round(rate / rates["pipeline"], 2) for name, rate in rates.items()},
        "times_the_plain_loop": round(rates["engine"] / rates["onnx int8, token budget"], 2),
        "roofline": roofline(tokens, rates["engine"]),
        "by_length": by_length(engine, chosen, runs),
        "by_wait": by_wait(engine, chosen, LOAD * rates["engine"]),
    }
    console.print(f"  {figures}")
    return figures


def timed(arms: Mapping[str, tuple[Arm, Sequence[str]]], runs: int) -> dict[str, float]:
    """Median seconds of each arm over its texts, after a warm-up; the arms take turns."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    for arm, texts in arms.values():
        arm(texts[:128])
    for _ in range(runs):
        for name, (arm, texts) in arms.items():
            started = time.perf_counter()
            arm(texts)
            found[name].append(time.perf_counter() - started)
            console.print(f"  {name}: {len(texts) / found[name][-1]:.0f} texts/s")
    return {name: median(spent) for name, spent in found.items()}


def rivals(folder: Path) -> dict[str, Arm]:
    """What a user would write, from the first thing in the documentation to a careful loop."""
    base = find().folder
    tokenizer = AutoTokenizer.from_pretrained(str(base))
    model = AutoModelForSequenceClassification.from_pretrained(str(base), num_labels=3).eval()
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, batch_size=32, device="cpu")
    session = _plain_int8(model, folder)

    def whole(texts: Sequence[str]) -> object:
        return classify(list(texts), truncation=True, max_length=MAX_TOKENS)

    def fixed(texts: Sequence[str]) -> object:
        return [_labels(session, tokenizer(list(texts[at : at + 64]), **_PADDED)) for at in range(0, len(texts), 64)]

    def budgeted(texts: Sequence[str]) -> object:
        ids = tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS)["input_ids"]
        batches = plan([len(found) for found in ids], RIVAL_BUDGET)
        padded = (tokenizer.pad({"input_ids": [ids[i] for i in batch]}, return_tensors="np") for batch in batches)
        return [_labels(session, batch) for batch in padded]

    return {
        "pipeline": whole,
        "pipeline, sorted": lambda texts: whole(sorted(texts, key=len)),
        "onnx int8, batches of 64": fixed,
        "onnx int8, token budget": budgeted,
    }


_PADDED: Final = {"padding": True, "truncation": True, "max_length": MAX_TOKENS, "return_tensors": "np"}


def _labels(session: onnxruntime.InferenceSession, batch: Mapping[str, np.ndarray]) -> np.ndarray:
    ids, mask = (batch[name].astype(np.int64) for name in ("input_ids", "attention_mask"))
    logits: np.ndarray = session.run(None, {"ids": ids, "mask": mask})[0]
    labels: np.ndarray = logits.argmax(axis=1)
    return labels


def _plain_int8(model: Any, folder: Path) -> onnxruntime.InferenceSession:
    """onnxruntime's own dynamic quantisation of the plain export, with its default threads."""
    whole, small = folder / "model.onnx", folder / "model.int8.onnx"

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.model(input_ids=ids, attention_mask=mask).logits
            return logits

    ids = torch.ones(2, 8, dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    free = {0: "texts", 1: "tokens"}
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        torch.onnx.export(
            Logits().eval(), (ids, mask), str(whole), input_names=["ids", "mask"], output_names=["logits"],
            dynamic_axes={"ids": free, "mask": free, "logits": {0: "texts"}}, opset_version=17, dynamo=False,
        )  # fmt: skip
    model.set_attn_implementation("sdpa")
    onnx.checker.check_model(str(whole))
    quantize_dynamic(whole, small)
    return onnxruntime.InferenceSession(str(small), providers=["CPUExecutionProvider"])


def roofline(tokens: Sequence[int], rate: float) -> dict[str, float]:
    """What the machine's int8 products alone would allow: their peak on all cores side by side, over the products of a
    text of `tokens` tokens, mean over all; and the engine's share of it. The rest is quantising, softmax, norms, GELU
    and what isn't the encoder.
    """
    shaped = shape(find().folder)
    per_text = float(np.mean([products(shaped, count) for count in tokens]))
    peak = _peak(len(os.sched_getaffinity(0)))
    return {
        "gmac_per_s": round(peak / 1e9, 1),
        "mmac_per_text": round(per_text / 1e6, 1),
        "texts_per_s": round(peak / per_text, 1),
        "engine_share": round(rate / (peak / per_text), 3),
    }


def products(shaped: Shape, tokens: int) -> int:
    """Multiply-adds of a text's int8 products: 12 h² a token and layer (query, key, value, output and the two wide
    ones of 4 h), but through the last layer only keys and values of every token, and all else of the first."""
    square = shaped.hidden_size**2
    return square * (tokens * (12 * (shaped.num_hidden_layers - 1) + 2) + 10)


def _peak(lanes: int) -> float:
    """Multiply-adds per second of one product, over and over on every core at once."""
    rows, inputs, outputs = PRODUCT
    one = from_array(np.array(1, np.float32), "one")
    scale = from_array(np.ones(outputs, np.float32), "scale")
    zero = from_array(np.array(128, np.uint8), "zero")
    weight = from_array(np.random.default_rng(SEED).integers(-63, 64, (inputs, outputs)).astype(np.int8), "weight")
    node = make_node("MatMulIntegerToFloat", ["x", "weight", "one", "scale", "zero"], ["y"], domain=CONTRIB)
    graph = make_graph(
        [node], "product",
        [make_tensor_value_info("x", TensorProto.UINT8, [rows, inputs])],
        [make_tensor_value_info("y", TensorProto.FLOAT, [rows, outputs])],
        [one, scale, zero, weight],
    )  # fmt: skip
    content = make_model(graph, opset_imports=[make_opsetid("", OPSET), make_opsetid(CONTRIB, 1)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(SEED).integers(0, 256, (rows, inputs)).astype(np.uint8)

    def work(until: float) -> int:
        done = 0
        while time.perf_counter() < until:
            session.run(None, {"x": x})
            done += 1
        return done

    with ThreadPoolExecutor(lanes) as threads:
        until = time.perf_counter() + PEAK_S
        done = sum(threads.map(work, [until] * lanes))
    return done * rows * inputs * outputs / PEAK_S


def by_length(engine: Engine, texts: Sequence[str], runs: int) -> dict[str, float]:
    """Texts per second of stretches of all the texts, each of so many tokens."""
    words = " ".join(texts).split()
    arms: dict[str, tuple[Arm, Sequence[str]]] = {}
    for length in LENGTHS:
        count = BY_LENGTH_TOKENS // length
        arms[str(length)] = (
            engine.score,
            [_of_length(engine, words[7 * i : 7 * i + length], length) for i in range(count)],
        )
    seconds = timed(arms, runs)
    return {name: round(len(arms[name][1]) / spent, 1) for name, spent in seconds.items()}


def _of_length(engine: Engine, words: Sequence[str], tokens: int) -> str:
    """The longest start of `words` that has at most `tokens` tokens."""
    text = " ".join(words)
    while len(text) > 1 and len(engine.runtime.tokenizer([text])[0].ids) > tokens:  # type: ignore[union-attr]
        text = text.rpartition(" ")[0] or text[:-1]
    return text


def by_wait(engine: Engine, texts: Sequence[str], rate: float) -> dict[str, Any]:
    """Texts that come one by one at `rate` a second, whatever the answers do: latency, by how long a batch is gathered
    before it is handed in. 0 is the engine as it is, which gathers only while it is busy.
    """
    found = {}
    for wait in WAITS_MS:
        seconds, waits = _stream(engine, [texts[i % len(texts)] for i in range(WAIT_TEXTS)], rate, wait / 1000)
        p50, p99 = (round(float(np.percentile(waits, share)) * 1000, 1) for share in (50, 99))
        found[f"{wait} ms"] = {"texts_per_s": round(len(waits) / seconds, 1), "p50_ms": p50, "p99_ms": p99}
        console.print(f"  gathered for {wait} ms: {found[f'{wait} ms']}")
    return found


def _stream(engine: Engine, texts: Sequence[str], rate: float, wait: float) -> tuple[float, list[float]]:
    """Seconds for all, and each text's from when it was due to its answer."""
    coming: queue.SimpleQueue[tuple[float, str] | None] = queue.SimpleQueue()
    waits: list[float] = []

    def answer(batch: Sequence[tuple[float, str]]) -> None:
        engine.score([text for _, text in batch])
        now = time.perf_counter()
        waits.extend(now - due for due, _ in batch)

    def gather() -> None:
        with ThreadPoolExecutor(64) as callers:
            while first := coming.get():
                time.sleep(wait)
                batch = [first]
                while not coming.empty():
                    if (item := coming.get()) is None:
                        coming.put(None)
                        break
                    batch.append(item)
                callers.submit(answer, batch)

    gathering = threading.Thread(target=gather)
    gathering.start()
    began = time.perf_counter()
    for number, text in enumerate(texts):
        due = began + number / rate
        if (ahead := due - time.perf_counter()) > 0:
            time.sleep(ahead)
        coming.put((due, text))
    coming.put(None)
    gathering.join()
    return time.perf_counter() - began, waits
