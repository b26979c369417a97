"""GET /v1/predictions/{id}/lineage: features from a live scorer, and what is said without one."""

from __future__ import annotations

import base64
import json
import time
from http.server import ThreadingHTTPServer
from typing import Any

import numpy as np
from gateway_kit import Running, announce, body_of, made, problem
from manifests import taught


def corrected(gateway: Running) -> str:
    """A prediction by a model that learned from two corrections, the second of which is nearer; its id."""
    asked, near, far = made(7, model="v2"), made(71), made(1_000)
    gateway.store(asked, near, far)
    found, content = taught([(one.text_id, one.text_id) for one in (far, near)])
    gateway.execute("INSERT INTO manifest VALUES (%s, %s, 1)", found, content)
    gateway.execute("INSERT INTO model_version VALUES ('v2', 'base-1', %s, '{}', 1)", json.dumps({"dataset": found}))
    gateway.execute("INSERT INTO annotator VALUES ('p1', 'ana', 1)")
    for number, one in enumerate((far, near)):
        gateway.execute(
            "INSERT INTO example (example_id, feedback_id, prediction_id, text_id, cluster, predicted, label, model,"
            " epoch, annotator, sampled, holdout, given) VALUES (%s, 'f', %s, %s, %s, 'positive', 'negative', 'base-1',"
            " 1, 'p1', false, false, %s)",
            one.text_id, one.prediction_id, one.text_id, one.cluster, number,
        )  # fmt: skip
    gateway.store(made(7, probabilities=(0.5, 0.3, 0.2)), texts=False)  # by base-1
    return asked.prediction_id


def lineage(gateway: Running, identity: str) -> dict[str, Any]:
    answer = gateway.client.get(f"/v1/predictions/{identity}/lineage")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_the_nearest_are_told_by_a_live_scorer(gateway: Running, scorer: ThreadingHTTPServer) -> None:
    identity = corrected(gateway)
    announce(gateway, scorer.server_port)
    found = lineage(gateway, identity)
    assert [one["text"] for one in found["nearest"]] == [body_of(made(71)), body_of(made(1_000))]
    near, far = found["nearest"]
    assert near["name"] == "ana" and near["similarity"] > far["similarity"]
    assert (found["text"], found["learned"], found["notes"]) == (body_of(made(7)), 2, [])
    assert [found["dataset"]] == [digest for (digest,) in gateway.execute("SELECT hash FROM manifest")]
    assert (found["before"]["model"], found["before"]["source"]) == ("base-1", "prediction")
    assert np.allclose(found["change"], [-0.45, -0.15, 0.6])


def test_without_a_scorer_the_rest_is_told(gateway: Running, scorer: ThreadingHTTPServer) -> None:
    identity = corrected(gateway)
    found = lineage(gateway, identity)
    assert found["nearest"] == [] and found["change"] is not None
    assert found["notes"] == ["what it is near to can't be told now: no score worker answers now"]
    announce(gateway, scorer.server_port)
    rows = base64.b64encode(b"\0" * 4).decode()
    short = {"model": "m", "epoch": 1, "key": "k", "width": 1, "rows": rows}
    scorer.answer = 200, json.dumps(short).encode()  # type: ignore[attr-defined]
    for _ in range(50):
        (note,) = lineage(gateway, identity)["notes"]
        if "answers now" not in note:
            break
        time.sleep(0.1)
    assert note.endswith("the score worker answered 200 and nothing of use"), "too few rows"
    unknown = problem(gateway.client.get("/v1/predictions/nothing/lineage"), 404)
    assert unknown["detail"].startswith("there is no prediction nothing")
