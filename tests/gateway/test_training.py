"""Why the trainer trains, over HTTP."""

from __future__ import annotations

from contextlib import closing

import psycopg2
from gateway_kit import Running, problem

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
