"""POST /v1/feedback: one word of one person, durable, counted once."""

from __future__ import annotations

from typing import Any

from gateway_kit import Running, made, problem

from services.stream import topics
from services.stream.events import Feedback, decode

PREDICTION = made(1)


def send(gateway: Running, idempotency_key: str | None = None, **changes: Any) -> Any:
    body = {"prediction_id": PREDICTION.prediction_id, "label": "negative", "annotator": "ann"} | changes
    headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
    return gateway.client.post("/v1/feedback", json=body, headers=headers)


def published(gateway: Running) -> list[Feedback]:
    return [decode(Feedback, record.value) for record in gateway.records(topics.FEEDBACK)]


def test_the_kind_is_derived_and_the_text_found(gateway: Running) -> None:
    gateway.store(PREDICTION)
    assert send(gateway).json()["kind"] == "correction"
    assert send(gateway, label="positive", sampled=True).json()["kind"] == "confirmation"
    first, second = sorted(published(gateway), key=lambda event: event.kind, reverse=True)
    assert (first.kind, first.label, first.text_id) == ("correction", "negative", PREDICTION.text_id)
    assert second.sampled
    assert {record.key for record in gateway.records(topics.FEEDBACK)} == {PREDICTION.text_id.encode()}


def test_the_same_word_has_the_same_id(gateway: Running) -> None:
    gateway.store(PREDICTION)
    assert send(gateway).json() == send(gateway).json()
    assert send(gateway).json() != send(gateway, annotator="bob").json()
    by_header = send(gateway, "k1").json()["feedback_id"]
    assert by_header == send(gateway, key="k1").json()["feedback_id"]


def test_a_key_is_its_annotators_own(gateway: Running) -> None:
    other = made(2)
    gateway.store(PREDICTION, other)
    same: list[dict[str, Any]] = [{}, {"annotator": "bob"}, {"prediction_id": other.prediction_id}]
    ids = [send(gateway, "1", **changes).json()["feedback_id"] for changes in same]
    assert len(set(ids)) == 3


def test_another_word_under_a_key_that_was_used_is_409(gateway: Running) -> None:
    gateway.store(PREDICTION)
    said = send(gateway, "k1").json()["feedback_id"]
    gateway.execute(
        "INSERT INTO feedback (feedback_id, prediction_id, text_id, kind, label, annotator, sampled, given)"
        " VALUES (%s, %s, %s, 'correction', 'negative', 'ann', false, 0)",
        said, PREDICTION.prediction_id, PREDICTION.text_id,
    )  # fmt: skip
    assert send(gateway, "k1").status_code == 202
    assert problem(send(gateway, "k1", label="neutral"), 409)["type"].endswith("key-reused")
    assert len(published(gateway)) == 2


def test_a_comment_is_kept_beside_the_topic(gateway: Running) -> None:
    gateway.store(PREDICTION)
    said = send(gateway, "k1", comment="clearly bad").json()["feedback_id"]
    send(gateway, "k1", comment="clearly bad, I say")
    assert gateway.execute("SELECT feedback_id, body FROM comment") == [(said, "clearly bad, I say")]
    assert not any(b"clearly" in record.value for record in gateway.records(topics.FEEDBACK))


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
