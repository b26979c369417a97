"""The registry over HTTP: decisions carry what they were made on."""

from __future__ import annotations

import json
from typing import Any

from gateway_kit import SHADOW, Running, decide, made, problem, propose, register

from services.stream import topics
from services.stream.events import ModelChange, decode


def test_promote_and_roll_back(gateway: Running) -> None:
    register(gateway, "v1", "v2")
    assert decide(gateway, "v1/promote", 0).json()["epoch"] == 1
    change = decide(gateway, "v2/promote", 1, evidence={"f1": 0.9}).json()
    assert (change["version"], change["previous"], change["epoch"]) == ("v2", "v1", 2)
    listed = {model["version"]: model["champion"] for model in gateway.client.get("/v1/models").json()}
    assert listed == {"v1": False, "v2": True}
    assert gateway.client.get("/v1/models/v2").json()["card"]["labels"][0] == "negative"
    assert decide(gateway, "rollback", 2).json()["version"] == "v1"
    rows = gateway.client.get("/v1/ledger").json()
    assert [(row["epoch"], row["action"], row["actor"]) for row in rows] == [
        (1, "promote", "ops"), (2, "promote", "ops"), (3, "rollback", "ops"),
    ]  # fmt: skip
    assert rows[1]["evidence"] == {"f1": 0.9}
    changes = [decode(ModelChange, record.value) for record in gateway.records(topics.MODELS)]
    assert [change.version for change in changes] == ["v1", "v2", "v1"]


def test_shadow_and_unshadow(gateway: Running) -> None:
    register(gateway, "v1", "v2", "v3")
    decide(gateway, "v1/promote", 0)
    change = decide(gateway, "v2/shadow", 1).json()
    assert (change["epoch"], change["action"], change["version"], change["previous"]) == (2, "shadow", "v2", "v1")
    listed = {m["version"]: (m["champion"], m["shadow"]) for m in gateway.client.get("/v1/models").json()}
    assert listed == {"v1": (True, False), "v2": (False, True), "v3": (False, False)}
    gateway.store(made(1, model="v1"))
    gateway.execute(
        "INSERT INTO shadow_prediction (prediction_id, text_id, label, negative, neutral, positive, model, epoch,"
        " scored) VALUES ('s', %s, 'neutral', 0.1, 0.8, 0.1, 'v2', 2, 1)",
        made(1).text_id,
    )
    comparison = gateway.client.get("/v1/models/v2").json()["comparison"]
    assert (comparison["n"], comparison["agreement"]["rate"]) == (1, 0.0)
    assert comparison["agreement"]["low"] == 0 and 0.7 < comparison["agreement"]["high"] < 0.8
    assert comparison["labels"]["positive"] == {"negative": 0, "neutral": 1, "positive": 0}
    assert gateway.client.get("/v1/models/v1").json()["comparison"] is None
    change = decide(gateway, "unshadow", 1).json()
    assert (change["epoch"], change["action"], change["version"]) == (3, "unshadow", "v2")
    assert [m["shadow"] for m in gateway.client.get("/v1/models").json()] == [False] * 3
    assert len(gateway.records(topics.MODELS)) == len(gateway.client.get("/v1/ledger").json()) == 3


def test_a_shadow_that_can_not_be_is_refused(gateway: Running) -> None:
    register(gateway, "v1", "v2")
    problem(decide(gateway, "v2/shadow", 0), 409)
    decide(gateway, "v1/promote", 0)
    problem(decide(gateway, "v1/shadow", 1), 409)
    problem(decide(gateway, "v2/shadow", 0), 409)
    problem(decide(gateway, "nope/shadow", 1), 404)
    problem(decide(gateway, "v2/shadow", 1, reason=""), 422)
    body = problem(decide(gateway, "unshadow", 1), 409)
    assert body["type"].endswith(":conflict") and "no model shadows" in body["detail"]
    assert len(gateway.records(topics.MODELS)) == 1


def test_a_decision_on_what_has_moved_is_409(gateway: Running) -> None:
    register(gateway, "v1", "v2")
    decide(gateway, "v1/promote", 0)
    problem(decide(gateway, "v2/promote", 0), 409)
    problem(decide(gateway, "rollback", 1), 409)
    assert len(gateway.records(topics.MODELS)) == 1


def test_what_a_scorer_refuses_is_409_with_its_reason(gateway: Running) -> None:
    register(gateway, "v1", "v2")
    decide(gateway, "v1/promote", 0)
    answer = {"offset": 0, "model": "v2", "answer": "refused", "reason": "no room for it"}
    gateway.execute(
        "INSERT INTO service (name, slot, pid, state, detail, started, beat)"
        " VALUES ('score', 0, 1, 'running', %s, 0, 9000000000000)",
        json.dumps({"preparation": answer}),
    )
    body = problem(decide(gateway, "v2/promote", 1), 409)
    assert body["type"].endswith(":unprepared") and "score 0 refuses it: no room for it" in body["detail"]
    assert len(gateway.records(topics.MODELS)) == len(gateway.client.get("/v1/ledger").json()) == 1


def test_bad_decisions(gateway: Running) -> None:
    register(gateway, "v1")
    problem(decide(gateway, "nope/promote", 0), 404)
    problem(gateway.client.get("/v1/models/nope"), 404)
    problem(decide(gateway, "v1/promote", -1), 422)
    problem(decide(gateway, "v1/promote", 0, reason=""), 422)
    problem(decide(gateway, "v1/promote", 0, reason="a\0"), 422)
    problem(decide(gateway, "v1/promote", 0, evidence=[1]), 422)
    problem(gateway.client.post("/v1/models/v1/promote", json={"actor": "a", "reason": "b"}), 422)
    assert gateway.client.get("/v1/ledger").json() == []


def test_odd_evidence_is_kept_as_it_is(gateway: Running) -> None:
    register(gateway, "v1")
    nested: dict[str, Any] = {"nul": "\0", "text": "</script>"}
    for _ in range(200):
        nested = {"x": nested}
    assert decide(gateway, "v1/promote", 0, evidence=nested).status_code == 200
    assert gateway.client.get("/v1/ledger").json()[0]["evidence"] == nested


def test_a_challenger_is_shown_approved_and_rejected(gateway: Running) -> None:
    register(gateway, "v1", "v2", "v3")
    assert gateway.client.get("/v1/standing").json() == {
        "candidate": None, "pinned": None, "cooling_until": None, "watched": None,
    }  # fmt: skip
    decide(gateway, "v1/promote", 0)
    assert "no challenger under way" in problem(decide(gateway, "v2/approve", 1), 409)["detail"]
    propose(gateway, "v2")
    found = gateway.client.get("/v1/standing").json()["candidate"]
    assert (found["version"], found["state"], found["passed"]["epoch"]) == ("v2", "awaiting approval", 2)
    assert found["proposed"]["evidence"] == SHADOW
    problem(decide(gateway, "v2/approve", 2), 409)
    problem(decide(gateway, "v3/approve", 1), 409)
    change = decide(gateway, "v2/approve", 1).json()
    assert (change["epoch"], change["action"], change["version"], change["previous"]) == (4, "promote", "v2", "v1")
    watched = gateway.client.get("/v1/standing").json()["watched"]
    assert (watched["version"], watched["former"], watched["labels"], watched["worse"]) == ("v2", "v1", 0, False)
    propose(gateway, "v3")
    problem(decide(gateway, "v3/reject", 1), 409)
    change = decide(gateway, "v3/reject", 4).json()
    assert (change["epoch"], change["action"], change["version"]) == (7, "withdraw", "v3")
    problem(decide(gateway, "v3/reject", 4), 409)
    rows = gateway.client.get("/v1/ledger").json()
    assert [(row["action"], row["actor"]) for row in rows[3:]] == [
        ("promote", "ops"), ("pass", "trainer"), ("propose", "trainer"), ("withdraw", "ops"),
    ]  # fmt: skip
    assert [decode(ModelChange, r.value).epoch for r in gateway.records(topics.MODELS)] == [1, 4, 7]


def test_pin_and_unpin(gateway: Running) -> None:
    problem(decide(gateway, "pin", 0), 409)
    register(gateway, "v1")
    decide(gateway, "v1/promote", 0)
    problem(decide(gateway, "unpin", 1), 409)
    problem(decide(gateway, "pin", 0), 409)
    row = decide(gateway, "pin", 1, reason="month's end").json()
    assert (row["epoch"], row["action"], row["version"], row["actor"]) == (2, "pin", "v1", "ops")
    assert gateway.client.get("/v1/standing").json()["pinned"]["reason"] == "month's end"
    assert "pinned by ops" in problem(decide(gateway, "pin", 1), 409)["detail"]
    assert decide(gateway, "unpin", 1).json()["epoch"] == 3
    assert gateway.client.get("/v1/standing").json()["pinned"] is None
    assert len(gateway.records(topics.MODELS)) == 1, "scorers have nothing to do with it"


def test_nobody_decides_as_a_machine(gateway: Running) -> None:
    register(gateway, "v1")
    body = problem(decide(gateway, "v1/promote", 0, actor="trainer"), 422)
    assert body["errors"][0]["field"] == "actor" and gateway.client.get("/v1/ledger").json() == []
