"""The review queue over HTTP: leases, gold questions among them, and what an answer does."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.server import ThreadingHTTPServer
from typing import Any

import pytest
from gateway_kit import Running, Start, announce, bearer, made, new_key, problem

from services.gateway import review
from services.review import gold
from services.runtime import now_ms
from services.stream import topics
from services.stream.events import Feedback, Prediction, decode, in_holdout

UNSURE: dict[str, Any] = {"probabilities": (0.34, 0.33, 0.33), "label": "negative"}


def some(n: int, held: bool, start: int = 0, **changes: Any) -> list[Prediction]:
    """`n` predictions that are held out, or aren't."""
    found = (made(number, **changes) for number in range(start, start + 100 * n))
    return [p for p in found if in_holdout(p.cluster) is held][:n]


def ask(gateway: Running, count: int = 10, annotator: str | None = "ana", **more: Any) -> dict[str, Any]:
    answer = gateway.client.post("/v1/review/leases", json={"count": count, "annotator": annotator, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def predictions(answer: dict[str, Any]) -> list[str]:
    return [lease["prediction"]["prediction_id"] for lease in answer["leases"]]


def word(gateway: Running, prediction: dict[str, Any], label: str, annotator: str = "ana") -> Any:
    body = {"prediction_id": prediction["prediction_id"], "label": label, "annotator": annotator}
    answer = gateway.client.post("/v1/feedback", json=body)
    assert answer.status_code == 202, answer.text
    return answer.json()


def published(gateway: Running) -> list[Feedback]:
    return [decode(Feedback, record.value) for record in gateway.records(topics.FEEDBACK)]


def stored_word(
    gateway: Running, number: int, p: Prediction, label: str, annotator: str, sampled: bool = False
) -> None:
    """What the feedback service would write."""
    pseudonym = f"pseudonym of {annotator}"
    gateway.execute("INSERT INTO annotator VALUES (%s, %s, 0) ON CONFLICT DO NOTHING", pseudonym, annotator)
    gateway.execute(
        "INSERT INTO feedback (feedback_id, prediction_id, text_id, kind, label, annotator, sampled, given)"
        " VALUES (%s, %s, %s, 'correction', %s, %s, %s, 0)",
        f"f{number}", p.prediction_id, p.text_id, label, pseudonym, sampled,
    )  # fmt: skip


def test_asking_again_gives_the_same_and_others_get_others(gateway: Running) -> None:
    gateway.store(*some(20, held=False), *some(20, held=True))
    first = ask(gateway, 10)
    assert len(set(predictions(first))) == 10 and first["waiting"] == 30
    again = ask(gateway, 10)
    assert [lease["lease"] for lease in again["leases"]] == [lease["lease"] for lease in first["leases"]]
    assert all(new["expires"] >= old["expires"] for new, old in zip(again["leases"], first["leases"], strict=True))
    other = ask(gateway, 10, "bo")
    assert not set(predictions(first)) & set(predictions(other))
    assert set(predictions(ask(gateway, 12))) > set(predictions(first))
    assert "no score worker answers" in first["left_out"][0]


def test_two_gateways_at_once_give_no_text_to_two_people(start: Start) -> None:
    gateways = [start(), start()]
    gateways[0].store(*some(30, held=False), *some(10, held=True))
    told: dict[int, set[str]] = {}

    def work(i: int) -> None:
        """Who gets less than they want, since others were quicker, asks again."""
        told[i] = set()
        for _ in range(8):
            before, told[i] = told[i], set(predictions(ask(gateways[i % 2], 5, f"a{i}")))
            assert before <= told[i]

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    given = Counter(name for names in told.values() for name in names)
    assert len(given) == given.total() == 40


def test_a_word_answers_the_lease_and_says_by_itself_what_was_drawn(gateway: Running) -> None:
    held, free = some(1, held=True), some(1, held=False)
    gateway.store(*held, *free)
    asked = ask(gateway)
    assert set(predictions(asked)) == {held[0].prediction_id, free[0].prediction_id}
    for lease in asked["leases"]:
        assert word(gateway, lease["prediction"], "neutral") == word(gateway, lease["prediction"], "neutral")
    events = published(gateway)
    assert {(e.prediction_id, e.sampled) for e in events} == {
        (held[0].prediction_id, True), (free[0].prediction_id, False),
    }  # fmt: skip
    assert ask(gateway)["leases"] == ask(gateway, annotator="bo")["leases"] == []


def test_what_was_drawn_but_isnt_ones_own_is_not_said_to_be(gateway: Running) -> None:
    held = some(1, held=True)
    gateway.store(*held)
    (lease,) = ask(gateway)["leases"]
    word(gateway, lease["prediction"], "neutral", "bo")
    assert [event.sampled for event in published(gateway)] == [False]
    assert predictions(ask(gateway)) == [held[0].prediction_id], "ana is still asked"


def test_who_passes_gets_another_and_the_text_goes_to_others(gateway: Running) -> None:
    gateway.store(*some(2, held=False))
    (lease,) = ask(gateway, 1)["leases"]
    for _ in range(2):
        assert gateway.client.delete(f"/v1/review/leases/{lease['lease']}").status_code == 204
    (other,) = ask(gateway, 5)["leases"]
    assert other["prediction"] != lease["prediction"]
    assert predictions(ask(gateway, 5, "bo")) == [lease["prediction"]["prediction_id"]]


def test_another_opinion_is_asked_of_others_on_what_somebody_judged(gateway: Running) -> None:
    (judged,) = some(1, held=False)
    gateway.store(judged)
    stored_word(gateway, 1, judged, "negative", "ana")
    assert ask(gateway)["leases"] == []
    assert predictions(ask(gateway, annotator="bo")) == [judged.prediction_id]
    assert predictions(ask(gateway, annotator="chen")) == [judged.prediction_id]
    assert ask(gateway, annotator="dee")["leases"] == [], "three at most"


def test_held_out_texts_stay_until_somebody_was_drawn_to_judge_them(gateway: Running) -> None:
    asked, unasked, corrected = some(3, held=True)
    gateway.store(asked, unasked, corrected)
    stored_word(gateway, 1, asked, "negative", "bo", sampled=True)
    stored_word(gateway, 2, corrected, "negative", "ana")
    rows = ask(gateway)
    assert set(predictions(rows)) >= {unasked.prediction_id, corrected.prediction_id}
    for lease in rows["leases"]:
        word(gateway, lease["prediction"], "neutral")
    assert all(event.sampled for event in published(gateway))


def test_the_least_sure_of_a_story_comes_once_where_a_worker_knows_it(
    gateway: Running, scorer: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    announce(gateway, scorer.server_port)
    monkeypatch.setattr(gold, "SHARES", (0.0, 0.0))
    copies = some(8, held=False, **UNSURE)
    others = some(8, held=False, start=5_000, probabilities=(0.4, 0.3, 0.3), label="negative")
    gateway.store(*copies, *others)
    gateway.execute("UPDATE text SET body = 'oil falls' WHERE text_id = ANY(%s)", [p.text_id for p in copies])
    first = ask(gateway, 2)
    assert first["left_out"] == []
    story = {p.prediction_id for p in copies}
    assert sum(name in story for name in predictions(first)) == 1
    scorer.answer = (500, b"")  # type: ignore[attr-defined]
    assert len(ask(gateway, 4)["leases"]) == 4, "what is known of the texts is remembered"
    gateway.store(*some(8, held=False, start=9_000))
    assert ask(gateway, 6)["left_out"] != []


def test_filters(gateway: Running) -> None:
    acme, xyz = some(2, held=False, tickers=("ACME",)), some(2, held=False, start=900, tickers=("XYZ",), language="zh")
    gateway.store(*acme, *xyz)
    assert len(ask(gateway)["leases"]) == 4
    assert set(predictions(ask(gateway, ticker="xyz"))) == {p.prediction_id for p in xyz}
    assert set(predictions(ask(gateway, language="en"))) == {p.prediction_id for p in acme}
    assert ask(gateway, ticker="NONE")["leases"] == []


def test_bad_requests_name_the_field(gateway: Running) -> None:
    for field, value in {"count": 0, "ticker": "", "language": 7, "annotator": ""}.items():
        body = {"annotator": "ana", "count": 1} | {field: value}
        assert problem(gateway.client.post("/v1/review/leases", json=body), 422)["errors"][0]["field"] == field
    body = {"annotator": "ana", "count": review.MOST + 1}
    problem(gateway.client.post("/v1/review/leases", json=body), 422)
    problem(gateway.client.post("/v1/review/leases", json={"annotator": "a\0"}), 422)
    problem(gateway.client.post("/v1/review/leases", json={}), 422)


def test_with_keys_leases_are_the_keys_own(start: Start, database: str) -> None:
    ana, bo = (bearer(new_key(database, "annotator", name=name)) for name in ("ana", "bo"))
    gateway = start()
    gateway.store(*some(1, held=False))
    asked = gateway.client.post("/v1/review/leases", json={"count": 1}, headers=ana).json()
    (lease,) = asked["leases"]
    problem(gateway.client.post("/v1/review/leases", json={"annotator": "ana"}, headers=bo), 403)
    assert gateway.client.delete(f"/v1/review/leases/{lease['lease']}", headers=bo).status_code == 204
    assert gateway.client.post("/v1/review/leases", json={"count": 1}, headers=ana).json()["leases"] == [
        lease | {"expires": pytest.approx(lease["expires"], abs=60_000)}
    ]
    assert gateway.client.delete(f"/v1/review/leases/{lease['lease']}", headers=ana).status_code == 204
    assert gateway.client.post("/v1/review/leases", json={}, headers=ana).json()["leases"] == []


def gold_ids() -> set[str]:
    return {gold.prediction_of(anchor) for anchor in gold.questions().values()}


def test_a_gold_question_looks_like_any_other(gateway: Running, scorer: ThreadingHTTPServer) -> None:
    announce(gateway, scorer.server_port)
    real = some(40, held=False, source="wire", event_time=now_ms())
    gateway.store(*real)
    gateway.execute("UPDATE prediction SET label = 'neutral', model = 'base-1', epoch = 1")
    asked = ask(gateway, 30)
    questions = [lease for lease in asked["leases"] if lease["prediction"]["prediction_id"] in gold_ids()]
    others = [lease for lease in asked["leases"] if lease["prediction"]["prediction_id"] not in gold_ids()]
    assert 5 <= len(questions) <= 25 and asked["left_out"] == []
    assert len(questions) + len(others) == 30
    for lease in questions:
        shown, like = lease["prediction"], others[0]["prediction"]
        assert lease.keys() == others[0].keys() and shown.keys() == like.keys()
        assert {name: type(value) for name, value in shown.items()} == {name: type(v) for name, v in like.items()}
        same = ("source", "language", "model", "epoch", "label", "url", "external_id", "foreign", "abstained")
        assert {name: shown[name] for name in same} == {name: like[name] for name in same}
        assert all(len(shown[name]) == len(like[name]) for name in ("prediction_id",))
        assert shown["text"] == gold.questions()[shown["text_id"]].text
        assert 0 <= real[0].event_time - shown["event_time"] < 3_600_000
        plain = gateway.client.get(f"/v1/predictions/{shown['prediction_id']}").json()
        assert plain == shown, "looked up, it is there as the others are"
    places = [lease["prediction"]["prediction_id"] in gold_ids() for lease in asked["leases"]]
    assert places != sorted(places) and places != sorted(places, reverse=True)
    body = json.dumps(asked)
    assert "gold" not in body and "sampled" not in body and "anchor" not in body


def test_an_answer_to_a_gold_question_is_ordinary_feedback(gateway: Running, scorer: ThreadingHTTPServer) -> None:
    announce(gateway, scorer.server_port)
    gateway.store(*some(40, held=False))
    asked = ask(gateway, 20)
    shown = next(x["prediction"] for x in asked["leases"] if x["prediction"]["prediction_id"] in gold_ids())
    assert word(gateway, shown, "positive")["kind"] == "correction"
    (event,) = published(gateway)
    assert (event.prediction_id, event.text_id) == (shown["prediction_id"], shown["text_id"])
    assert not event.sampled
    assert shown["prediction_id"] not in predictions(ask(gateway, 20))


def test_a_newcomer_is_asked_more_and_nothing_twice(
    gateway: Running, scorer: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gold, "SHARES", (1.0, 0.0))
    announce(gateway, scorer.server_port)
    gateway.store(*some(60, held=False))
    seen: list[str] = []
    while len(seen) < gold.NEWCOMER:
        asked = [x["prediction"] for x in ask(gateway, 5)["leases"]]
        questions = [p for p in asked if p["prediction_id"] in gold_ids()]
        assert questions
        for prediction in questions:
            word(gateway, prediction, "neutral")
            seen.append(prediction["prediction_id"])
    assert len(set(seen)) == len(seen)
    for _ in range(3):
        left = [x["prediction"] for x in ask(gateway, 5)["leases"]]
        assert not {p["prediction_id"] for p in left} & gold_ids(), "no longer a newcomer"
        for prediction in left:
            word(gateway, prediction, "neutral")


def test_gold_is_never_what_measures_forgetting_nor_where_it_would_stand_out(
    gateway: Running, scorer: ThreadingHTTPServer
) -> None:
    assert all(anchor.replayed for anchor in gold.questions().values())
    announce(gateway, scorer.server_port)
    gateway.store(*some(20, held=False), *some(20, held=False, start=4_000, language="zh"))
    for wanted in ({"ticker": "ACME"}, {"language": "zh"}):
        assert not set(predictions(ask(gateway, 20, **wanted))) & gold_ids()
    scorer.answer = (503, b"")  # type: ignore[attr-defined]
    asked = ask(gateway, 20, "bo")
    assert not set(predictions(asked)) & gold_ids()
    assert any("whose answer is known" in words for words in asked["left_out"])
