"""Why the trainer trains, over HTTP."""

from __future__ import annotations

from contextlib import closing

import psycopg2
from gateway_kit import Running, decide, judged, problem, register

from services.trainer import evaluations, observed, triggers


def test_the_last_looks_at_the_triggers_newest_first(gateway: Running) -> None:
    assert gateway.client.get("/v1/training").json() == {"evaluations": []}
    with closing(psycopg2.connect(gateway.settings.database)) as connection, connection, connection.cursor() as cursor:
        numbers = observed.read(cursor)
        for found in (triggers.evaluate(numbers, gateway.settings), triggers.by_command(numbers)):
            evaluations.record(cursor, found)
    newest, oldest = gateway.client.get("/v1/training").json()["evaluations"]
    assert newest["trigger"] == "command" and newest["train"]
    assert not oldest["train"] and oldest["reason"].startswith("no: 0 of 200 new labels; nothing new to learn from; ")
    assert oldest["numbers"]["fresh"] == 0 and "agreement" in oldest["holds"]
    assert len(gateway.client.get("/v1/training", params={"limit": 1}).json()["evaluations"]) == 1
    problem(gateway.client.get("/v1/training", params={"limit": 0}), 400)


def test_what_came_of_each_run_and_the_curve_that_they_make(gateway: Running) -> None:
    assert gateway.client.get("/v1/training/runs").json() == []
    register(gateway, "v1", "v2")
    decide(gateway, "v1/promote", 0)
    judged(gateway, "refused", 100, 160)
    judged(gateway, "passed", 200, 210)
    gateway.execute(
        "INSERT INTO training_run (trigger, state, upto, detail, started) VALUES ('time', 'running', 0, '{}', 7)"
    )
    decide(gateway, "v2/promote", 1)
    running, passed, refused = gateway.client.get("/v1/training/runs").json()
    assert (running["state"], running["challenger"], running["finished"]) == ("running", None, None)
    assert (passed["promoted"], passed["learned_from"], passed["challenger"]["right"]) == (True, 200, 210)
    assert refused["champion"]["n"] == 300 and refused["version"] == "v2"
    assert len(gateway.client.get("/v1/training/runs", params={"limit": 1}).json()) == 1
    answer = gateway.client.get("/v1/training/curve.svg")
    assert answer.headers["content-type"].startswith("image/svg+xml") and answer.text.startswith("<svg")
    assert "challenger, promoted" in answer.text
