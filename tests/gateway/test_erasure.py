"""DELETE /v1/texts and /v1/annotators, and the pseudonyms that feedback bears."""

from __future__ import annotations

import pytest
from gateway_kit import Running, Start, bearer, clean, made, new_key, outgoing, problem

from services.gateway import frames
from services.stream import topics
from services.stream.bus import Record
from services.stream.database import connector
from services.stream.events import ERASED, Feedback, decode


def test_a_text_is_erased_over_http(gateway: Running) -> None:
    text = made(1)
    gateway.publish(text)
    gateway.store(text)
    where = f"/v1/texts/{text.text_id}"
    assert problem(gateway.client.delete(where), 422)["errors"][0]["field"] == "actor"
    dry = gateway.client.delete(where, params={"actor": "oda", "dry_run": True}).json()
    assert dry["rows"]["text"] == 1 and gateway.execute("SELECT count(*) FROM erasure") == [(0,)]
    done = gateway.client.delete(where, params={"actor": "oda", "retrain": True}).json()
    assert (done["subjects"], done["records"], done["emptied"]) == ([text.text_id], {topics.CLEAN: 1}, 1)
    assert done["retrain"] is None, "no model has learned from it"
    assert [record.value for record in gateway.records(topics.CLEAN)] == [ERASED]
    shown = gateway.client.get(f"/v1/predictions/{text.prediction_id}").json()
    assert shown["text"] is None and shown["label"] == text.label
    assert gateway.execute("SELECT actor FROM erasure") == [("oda",)]
    assert "no such text" in problem(gateway.client.delete("/v1/texts/nothing", params={"actor": "o"}), 404)["detail"]


def test_an_annotator_is_erased_with_their_keys(start: Start, database: str) -> None:
    operator, ana = bearer(new_key(database, name="oda")), bearer(new_key(database, "annotator", name="ana bo"))
    gateway = start()
    gateway.store(made(1))
    word = {"prediction_id": made(1).prediction_id, "label": "negative", "comment": "hm"}
    said = gateway.client.post("/v1/feedback", json=word, headers=ana).json()
    (event,) = [decode(Feedback, record.value) for record in gateway.records(topics.FEEDBACK)]
    assert event.annotator != "ana bo" and len(event.annotator) == 16
    assert gateway.client.post("/v1/feedback", json=word, headers=ana).json() == said, "the same pseudonym"
    assert problem(gateway.client.delete("/v1/annotators/ana", headers=ana), 403)
    done = gateway.client.delete("/v1/annotators/ana bo", headers=operator)
    assert done.status_code == 200, done.text
    assert done.json()["rows"] == {"annotator": 1, "api_key": 1, "comment": 1}, "the word itself is still under way"
    assert gateway.execute("SELECT name FROM api_key") == [("oda",)]
    assert gateway.execute("SELECT actor, subjects FROM erasure") == [("oda", [event.annotator])]


def test_the_stream_forgets_a_text_within_a_minute(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, text = frames.Texts(connector(database, "test")), clean(made(1))
    event = outgoing(text)
    texts.learn([Record(event.topic, 0, 0, 0, event.key, event.value)])
    texts.forget()
    assert texts.of([text.text_id]) == {text.text_id: (text.text, None)}
    monkeypatch.setattr(frames, "HELD_S", -1.0)
    texts.forget()
    assert not texts.of([text.text_id]), "neither is it in the table"
    texts.close()
