"""From the last of 200 labels to a promoted model in service: training, export, gate, shadow, preparation, swap.

The holdout has its labels before. The shadow is a count, met by stored texts. Texts and labels are the demo's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import httpx

from ops.bench.common import console, gateway, loop, medians
from services import status
from services.demo import readers
from services.demo.run import ingest
from services.settings import Method, Settings
from services.stream.events import in_holdout

LABELS: Final = 200
SHADOW_TEXTS: Final = 100
WAIT_S: Final = 900.0
METHODS: Final[tuple[Method, ...]] = ("head", "lora")


def run(runs: int) -> dict[str, Any]:
    """Medians, by method."""
    found: dict[str, Any] = {}
    for method in METHODS:
        done = []
        for _ in range(runs):
            done.append(_run(method))
            console.print({method: done[-1]})
        found[method] = medians(done)
    return {"labels": LABELS, "shadow_texts": SHADOW_TEXTS, **found}


def _run(method: Method) -> dict[str, Any]:
    changes: dict[str, Any] = {"retrain_after": LABELS, "retrain_below": 0, "shadow_texts": SHADOW_TEXTS, "shadow_s": 0}
    with loop("embedded", method=method, partitions=2, **changes) as up, gateway(up.settings) as client:
        ingest(up.settings, "\n".join(readers.lines("stream.jsonl")) + "\n")
        status.wait_idle(up.settings, lambda _: None, WAIT_S)
        known = readers.labels()
        found = [(p, known[p["external_id"]].label) for p in readers.predictions(client)]
        labelled = [(p, label) for p, label in found if label is not None]
        measuring = [(p, label) for p, label in labelled if in_holdout(p["cluster"])]
        for prediction, label in measuring:
            _say(client, prediction, label, sampled=True)
        status.wait_idle(up.settings, lambda _: None, WAIT_S)
        wrong = [(p, label) for p, label in labelled if not in_holdout(p["cluster"]) and label != p["label"]]
        for prediction, label in wrong[:LABELS]:
            _say(client, prediction, label, sampled=False)
        began = time.monotonic()
        rows = _serving(client, up.settings, began)
        return {
            "seconds": round(time.monotonic() - began, 1),
            "held_out": len(measuring),
            "decisions": [row["action"] for row in rows],
            "reason": rows[-1]["reason"],
        }


def _say(client: httpx.Client, prediction: Mapping[str, Any], label: str, *, sampled: bool) -> None:
    ids = {name: prediction[name] for name in ("prediction_id", "text_id")}
    body = {**ids, "label": label, "annotator": "ana", "sampled": sampled}
    client.post("/v1/feedback", json=body).raise_for_status()


def _serving(client: httpx.Client, settings: Settings, began: float) -> list[dict[str, Any]]:
    """The ledger, once what it last promoted answers; or once it refuses."""
    while time.monotonic() < began + WAIT_S:
        rows: list[dict[str, Any]] = client.get("/v1/ledger").json()
        last = rows[-1]
        if last["action"] in ("refuse", "withdraw"):
            return rows
        if last["action"] == "promote" and len(rows) > 1:
            answer = client.post("/v1/score", json={"texts": ["warm"]}).json()
            if answer["epoch"] >= last["epoch"]:
                return rows
        time.sleep(0.1)
    raise TimeoutError(f"nothing came into service in {WAIT_S:.0f} s; see {settings.data}/log")
