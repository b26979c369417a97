"""Flags, comments, outcomes and withdrawals, and whose words are believed: /v1/feedback, /v1/outcomes,
/v1/quarantine."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from gateway_kit import Running, Start, bearer, made, new_key, problem

from services.feedback.gold import gold
from services.keys import Role
from services.stream import topics
from services.stream.events import Feedback, RawText, decode, text_id, withdrawal_id

PREDICTION = made(1)


def send(gateway: Running, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    body = {"prediction_id": PREDICTION.prediction_id, "annotator": "ann"} | fields
    return gateway.client.post("/v1/feedback", json=body, headers=headers or {})


def published(gateway: Running) -> list[Feedback]:
    return [decode(Feedback, record.value) for record in gateway.records(topics.FEEDBACK)]


def taken(gateway: Running, feedback_id: str, annotator: str = "ann") -> None:
    """As the feedback service takes a word."""
    gateway.execute(
        "INSERT INTO feedback (feedback_id, prediction_id, text_id, kind, label, annotator, sampled, given)"
        " VALUES (%s, %s, %s, 'correction', 'negative', %s, false, 0)",
        feedback_id, PREDICTION.prediction_id, PREDICTION.text_id, annotator,
    )  # fmt: skip


def test_a_flag_and_a_comment_are_words_of_their_own(gateway: Running) -> None:
    gateway.store(PREDICTION)
    flagged = send(gateway, flag="spam")
    assert flagged.json() == send(gateway, flag="spam", kind="flag").json()
    assert flagged.json()["kind"] == "flag" and send(gateway, flag="wrong_ticker").json() != flagged.json()
    commented = send(gateway, comment="what is this?").json()
    assert commented == send(gateway, comment="never mind").json()
    assert gateway.execute("SELECT body FROM comment WHERE feedback_id = %s", commented["feedback_id"]) == [
        ("never mind",)
    ]
    words = {(word.kind, word.label, word.flag) for word in published(gateway)}
    assert words == {("flag", None, "spam"), ("flag", None, "wrong_ticker"), ("comment", None, None)}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "label"),
        ({"flag": "boring"}, "flag"),
        ({"flag": "spam", "label": "negative"}, "flag"),
        ({"flag": "spam", "kind": "comment"}, "kind"),
        ({"comment": "x", "kind": "correction"}, "kind"),
        ({"label": "negative", "kind": "outcome"}, "kind"),
    ],
)
def test_what_is_no_word_names_the_field(gateway: Running, fields: dict[str, Any], field: str) -> None:
    gateway.store(PREDICTION)
    found = problem(send(gateway, **fields), 422)
    assert found["errors"][0]["field"] == field
    if fields.get("flag") == "boring":
        assert "spam, not_financial, wrong_ticker" in found["detail"]
    assert published(gateway) == []


@pytest.mark.parametrize(("role", "standing"), [("annotator", "annotator"), ("operator", "operator"), (None, "local")])
def test_a_word_carries_what_its_key_allowed(start: Start, database: str, role: Role | None, standing: str) -> None:
    headers = bearer(new_key(database, role, name="ann")) if role else {}
    gateway = start()
    gateway.store(PREDICTION)
    assert send(gateway, headers, label="negative").status_code == 202
    assert [word.role for word in published(gateway)] == [standing]


def test_a_gold_question_is_answered_like_any_other_text(gateway: Running) -> None:
    question, anchor = next(iter(gold().items()))
    answers = [
        send(gateway, prediction_id=question, label=label).json()["kind"]
        for label in ("negative", "neutral", "positive")
    ]
    assert len(set(answers)) == 1, "the answer doesn't tell which is right"
    assert send(gateway, prediction_id=question, label=anchor.label, kind="confirmation", text_id="t").is_success
    assert [word.text_id for word in published(gateway) if word.kind == "confirmation"] == ["t"]


def test_an_outcome_finds_the_newest_prediction_of_its_text(gateway: Running) -> None:
    text = text_id(RawText(text="", source="wire", id="x/1"))
    old, new = made(2, text_id=text), made(2, text_id=text, model="base-2", epoch=2)
    gateway.store(new)
    gateway.store(old, texts=False)
    body = {"source": "wire", "id": "x/1", "label": "negative", "annotator": "close-prices"}
    answer = gateway.client.post("/v1/outcomes", json=body)
    assert answer.json()["kind"] == "outcome" and answer.json() == gateway.client.post("/v1/outcomes", json=body).json()
    outcome = published(gateway)[0]
    assert (outcome.prediction_id, outcome.text_id, outcome.label) == (new.prediction_id, text, "negative")
    assert (
        "only the first is scored"
        in problem(gateway.client.post("/v1/outcomes", json=body | {"id": "x/2"}), 404)["detail"]
    )
    assert (
        problem(gateway.client.post("/v1/outcomes", json=body | {"label": "up"}), 422)["errors"][0]["field"] == "label"
    )


def test_one_takes_ones_own_word_back_and_an_operator_anyones(start: Start, database: str) -> None:
    ann, bob, boss = (
        bearer(new_key(database, role, name=name))
        for role, name in (("annotator", "ann"), ("annotator", "bob"), ("operator", "boss"))
    )
    gateway = start()
    gateway.store(PREDICTION)
    taken(gateway, "w1")
    taken(gateway, "w2")
    assert problem(gateway.client.delete("/v1/feedback/w1", headers=bob), 403)["type"].endswith("not-yours")
    answer = gateway.client.delete("/v1/feedback/w1", headers=ann)
    assert (answer.status_code, answer.json()) == (202, {"feedback_id": withdrawal_id("w1"), "kind": "withdrawal"})
    assert gateway.client.delete("/v1/feedback/w2", headers=boss).status_code == 202
    who = dict(gateway.execute("SELECT pseudonym, name FROM annotator"))
    words = [(word.withdraws, who[word.annotator], word.role, word.text_id) for word in published(gateway)]
    assert words == [
        ("w1", "ann", "annotator", PREDICTION.text_id), ("w2", "boss", "operator", PREDICTION.text_id),
    ]  # fmt: skip
    gateway.execute(
        "INSERT INTO feedback (feedback_id, prediction_id, text_id, kind, annotator, sampled, given, withdraws)"
        " VALUES ('back', 'p', 't', 'withdrawal', 'ann', false, 0, 'w1')"
    )
    assert "say the word again" in problem(gateway.client.delete("/v1/feedback/back", headers=ann), 404)["detail"]


def test_a_word_on_its_way_is_waited_for(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway.store(PREDICTION)
    late = threading.Timer(0.5, taken, (gateway, "w1"))
    late.start()
    assert gateway.client.delete("/v1/feedback/w1").status_code == 202
    late.join()
    monkeypatch.setattr("services.gateway.judgements.STORED_S", 0.1)
    problem(gateway.client.delete("/v1/feedback/w2"), 404)
    assert [word.withdraws for word in published(gateway)] == ["w1"]


def test_all_that_was_said_is_shown(gateway: Running) -> None:
    gateway.store(PREDICTION)
    taken(gateway, "w1")
    gateway.execute("INSERT INTO comment VALUES ('w1', 'clearly')")
    taken(gateway, "w2", "bob")
    gateway.execute(
        "INSERT INTO feedback (feedback_id, prediction_id, text_id, kind, annotator, sampled, given, withdraws)"
        " VALUES ('back', %s, %s, 'withdrawal', 'ann', false, 0, 'w1')",
        PREDICTION.prediction_id, PREDICTION.text_id,
    )  # fmt: skip
    found = gateway.client.get(f"/v1/predictions/{PREDICTION.prediction_id}/feedback").json()
    assert [(w["feedback_id"], w["annotator"], w["withdrawn"], w["comment"]) for w in found] == [
        ("w1", "ann", True, "clearly"), ("w2", "bob", False, None),
    ]  # fmt: skip
    assert gateway.client.get("/v1/predictions/none/feedback").json() == []


def example(gateway: Running, number: int, who: str) -> None:
    gateway.execute(
        "INSERT INTO example (example_id, feedback_id, prediction_id, text_id, cluster, predicted, label, model, epoch,"
        " annotator, role, sampled, holdout, given) VALUES (%s, %s, 'p', %s, %s, 'neutral', 'positive', 'm', 1, %s,"
        " 'annotator', false, false, 1)",
        *(f"e{number}",) * 4, who,
    )  # fmt: skip


def test_annotators_and_quarantine(gateway: Running) -> None:
    example(gateway, 1, "ana")
    gateway.execute(
        "INSERT INTO quarantine (annotator, reason, subject, detail, words, found)"
        " VALUES ('ana', 'burst', '', '99 words within 60 s', '{e1}', 5), ('bo', 'copied', 'ana', '…', '{e2}', 6)"
    )
    (ana,) = gateway.client.get("/v1/annotators").json()
    assert (ana["name"], ana["state"], ana["words"], ana["weight"]) == ("ana", "newcomer", 1, 0.25)
    first, second = gateway.client.get("/v1/quarantine").json()
    assert (first["words"], first["detail"], first["state"]) == (["e1"], "99 words within 60 s", "held")
    decide = f"/v1/quarantine/{first['id']}/release"
    assert problem(gateway.client.post(decide, json={}), 422)["errors"][0]["field"] == "actor"
    released = gateway.client.post(decide, json={"actor": "boss"}).json()
    assert (released["state"], released["decided_by"]) == ("released", "boss")
    assert [row["id"] for row in gateway.client.get("/v1/quarantine?state=held").json()] == [second["id"]]
    refused = gateway.client.post(f"/v1/quarantine/{second['id']}/refuse", json={"actor": "boss"}).json()
    assert refused["state"] == "refused"
    problem(gateway.client.post("/v1/quarantine/999/refuse", json={"actor": "boss"}), 404)
    problem(gateway.client.get("/v1/quarantine?state=lost"), 400)
