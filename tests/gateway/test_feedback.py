"""POST /v1/feedback: one word of one person, durable, counted once."""

from __future__ import annotations

from typing import Any

from gateway_kit import Running, made, problem

from services.stream import topics
from services.stream.events import Feedback, decode, derived_id

PREDICTION = made(1)


def send(gateway: Running, idempotency_key: str | None = None, **changes: Any) -> Any:
    body = {"prediction_id": PREDICTION.prediction_id, "label": "negative", "annotator": "ann"} | changes
    headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
    return gateway.client.post("/v1/feedback", json=body, headers=headers)


def published(gateway: Running) -> list[Feedback]:
    return [decode(Feedback, record.value) for record in gateway.records(topics.FEEDBACK)]


def test_the_kind_is_derived_and_the_text_found(gateway: Running) -> None:
    gateway.store(PREDICTION)
    assert send(gateway, comment="clearly bad").json()["kind"] == "correction"
    assert send(gateway, label="positive", sampled=True).json()["kind"] == "confirmation"
    first, second = sorted(published(gateway), key=lambda event: event.kind, reverse=True)
    assert (first.kind, first.label, first.text_id, first.comment) == (
        "correction", "negative", PREDICTION.text_id, "clearly bad",
    )  # fmt: skip
    assert second.sampled
    assert {record.key for record in gateway.records(topics.FEEDBACK)} == {PREDICTION.text_id.encode()}


def test_the_same_word_has_the_same_id(gateway: Running) -> None:
    gateway.store(PREDICTION)
    assert send(gateway).json() == send(gateway).json()
    assert send(gateway).json() != send(gateway, annotator="bob").json()
    by_header = send(gateway, "k1").json()["feedback_id"]
    assert by_header == send(gateway, key="k1", label="neutral").json()["feedback_id"] == derived_id("feedback", "k1")


def test_a_prediction_that_is_not_stored_yet_needs_its_text_and_a_kind(gateway: Running) -> None:
    assert "text_id" in problem(send(gateway), 404)["detail"]
    assert problem(send(gateway, text_id="t"), 422)["errors"][0]["field"] == "kind"
    assert send(gateway, text_id="t", kind="correction").status_code == 202
    (event,) = published(gateway)
    assert event.text_id == "t"


def test_words_that_contradict_the_prediction_are_refused(gateway: Running) -> None:
    gateway.store(PREDICTION)
    assert problem(send(gateway, kind="confirmation"), 422)["errors"][0]["field"] == "kind"
    assert problem(send(gateway, text_id="other"), 422)["errors"][0]["field"] == "text_id"
    assert published(gateway) == []


def test_bad_bodies_name_the_field(gateway: Running) -> None:
    gateway.store(PREDICTION)
    detail = problem(send(gateway, label="bullish"), 422)
    assert detail["errors"][0]["field"] == "label"
    assert all(label in detail["detail"] for label in ("negative", "neutral", "positive"))
    odd: dict[str, Any] = {
        "annotator": "", "comment": "x" * 2_001, "prediction_id": 7, "kind": "guess", "sampled": "perhaps", "key": "",
    }  # fmt: skip
    for field, value in odd.items():
        assert problem(send(gateway, **{field: value}), 422)["errors"][0]["field"] == field
    for field in ("annotator", "comment", "prediction_id"):
        changes: dict[str, Any] = {field: "a\0b"}
        assert problem(send(gateway, **changes), 422)["errors"][0]["field"] == field
    missing = gateway.client.post("/v1/feedback", json={"label": "neutral", "annotator": "a"})
    assert problem(missing, 422)["errors"][0]["field"] == "prediction_id"
    problem(send(gateway, "x" * 501), 400)
    for body, status in ((b"", 422), (b"\xff", 400), (b"[" * 10_000, 400), (b"[]", 422), (b"{", 400)):
        problem(gateway.client.post("/v1/feedback", content=body), status)
    assert published(gateway) == []
