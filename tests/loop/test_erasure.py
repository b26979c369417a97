"""What an erasure takes, what it leaves, what was under way, and who learned from it."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import manifests
import msgspec
import pytest
import redis
from loop.conftest import Bench
from loop.makers import clean_text, prediction, published
from loop.scoring import database

from services import annotators, status, store
from services.clean import service as clean
from services.clean.near import PREFIX
from services.erasure import request, sweep
from services.erasure.log import cluster
from services.erasure.people import erase_annotator
from services.erasure.refusal import Mark, refuse, refused
from services.erasure.request import ASKED, Request
from services.erasure.texts import erase_text, id_of
from services.lineage.learned import heirs, learned, learners, nearest_clear
from services.score import worker
from services.stream import topics
from services.stream.bus import Outgoing, read_to_end
from services.stream.errors import Rejected
from services.stream.events import ERASED, RawText, encode, text_id
from services.trainer import dataset
from services.trainer.setup import register_bundled

HOW = Request("oda")
RAW = RawText(text="Shares of Halvorsen fell after it warned on freight", source="wire", id="w1")
ID = text_id(RAW)


def raw(text: RawText) -> Outgoing:
    return Outgoing(topics.RAW, text_id(text).encode(), encode(text))


def cleaned(bench: Bench) -> None:
    bench.run(clean.serve, lambda: bench.caught_up(clean.GROUP, topics.RAW))


def stored(bench: Bench) -> None:
    bench.run(store.serve, lambda: bench.caught_up(store.GROUP, *store.TOPICS))


def values(bench: Bench, topic: str) -> list[bytes]:
    with closing(bench.bus.reader([topic])) as reader:
        return [record.value for record in read_to_end(reader, bench.bus.ends(topic))]


def learn(bench: Bench, version: str, parent: str | None, upto: int, started: int = 10) -> None:
    """A model and the run that made it, of what there was then."""
    taught = bench.rows(
        "SELECT DISTINCT ON (text_id) example_id, text_id FROM example WHERE position <= %s AND NOT holdout"
        " AND NOT EXISTS (SELECT FROM erasure f WHERE f.at <= %s AND f.subjects @> ARRAY[text_id])"
        " ORDER BY text_id, position DESC",
        upto, started,
    )  # fmt: skip
    found, content = manifests.taught(taught)
    bench.rows(
        "INSERT INTO model_version (version, parent, card, files, created) VALUES (%s, %s, %s, '{}', %s) RETURNING 1",
        version, parent, json.dumps({"dataset": found}), started,
    )  # fmt: skip
    bench.rows(
        "INSERT INTO training_run (trigger, state, upto, detail, started) VALUES ('t', 'refused', %s, %s, %s)"
        " RETURNING 1",
        upto, json.dumps({"version": version}), started,
    )  # fmt: skip
    bench.rows("INSERT INTO manifest VALUES (%s, %s, 1) ON CONFLICT DO NOTHING RETURNING 1", found, content)


def example(bench: Bench, name: str, text: str, annotator: str = "p1", holdout: bool = False) -> None:
    bench.rows(
        "INSERT INTO example (example_id, feedback_id, prediction_id, text_id, cluster, predicted, label, model, epoch,"
        " annotator, sampled, holdout, given) VALUES (%s, %s, 'p', %s, %s, 'neutral', 'positive', 'm', 1, %s, false,"
        " %s, 1) RETURNING 1",
        name, name, text, text, annotator, holdout,
    )  # fmt: skip


def test_a_text_goes_and_what_was_said_of_it_stays(bench: Bench) -> None:
    other = RawText(text="Orders at Harlow rise after a good quarter", source="wire", id="w2")
    bench.bus.publish([raw(RAW), raw(other)])
    cleaned(bench)
    bench.bus.publish([published(prediction(ID, tickers=("HLV",)))])
    stored(bench)
    bench.rows("INSERT INTO comment VALUES ('f1', 'as Halvorsen said', %s, 'p1') RETURNING 1", ID)
    bench.rows("INSERT INTO feedback VALUES ('f1', 'p', %s, 'correction', 'neutral', 'p1', false, 1) RETURNING 1", ID)
    with closing(redis.Redis.from_url(bench.settings.redis)) as valkey:
        valkey.mset({f"{PREFIX}1": f"sig{1:015}{ID}", f"{PREFIX}2": f"sig{1:015}other"})
        dry = erase_text(bench.settings, ID, HOW._replace(dry=True))
        assert bench.rows("SELECT count(*) FROM text") == [(2,)] and ERASED not in values(bench, topics.RAW)
        done = erase_text(bench.settings, id_of("wire", "w1"), HOW)
        assert valkey.keys(f"{PREFIX}*") == [f"{PREFIX}2".encode()]
    expected = {"text": 1, "claim": 1, "story": 1, "comment": 1}
    assert dry.rows == expected and done.rows == expected | {"valkey": 1}
    assert done.records == {topics.CLEAN: 1, topics.RAW: 1} and (done.emptied, done.gone_by) == (2, None)
    for topic in (topics.RAW, topics.CLEAN):
        assert sorted(value == ERASED for value in values(bench, topic)) == [False, True]
    assert bench.rows("SELECT source, text_id FROM text") == [("wire", text_id(other))]
    for table in ("prediction", "feedback"):
        assert bench.rows(f"SELECT count(*) FROM {table} WHERE text_id = %s", ID) == [(1,)]  # noqa: S608 (our own)
    ((subjects, actor, counts),) = bench.rows("SELECT subjects, actor, counts FROM erasure")
    assert (subjects, actor, counts["records"]) == ([ID], "oda", done.records)
    again = erase_text(bench.settings, ID, HOW)
    assert not any(again.rows.values()) and again.records == {} and again.emptied == 0
    with pytest.raises(Rejected, match="no such text"):
        erase_text(bench.settings, "nothing", HOW)


def test_what_comes_again_is_refused_without_its_text(bench: Bench) -> None:
    bench.bus.publish([raw(RAW)])
    cleaned(bench)
    stored(bench)
    erase_text(bench.settings, ID, HOW)
    same_words = RawText(text=RAW.text, source="copier")
    bench.bus.publish([raw(RAW), raw(same_words), raw(RawText(text=f"<p>{RAW.text}</p>", source="web"))])
    cleaned(bench)
    assert len(values(bench, topics.CLEAN)) == 1, "the one that was erased"
    refusals = values(bench, topics.REJECTED)
    assert [b'"reason":"erased"' in value for value in refusals] == [True] * 3
    assert not any(b"Halvorsen" in value for value in refusals)
    stored(bench)
    assert not any(b"Halvorsen" in value for value in values(bench, topics.RAW)), "emptied once it was answered"
    account = status.collect(bench.settings).account
    assert (account.taken, account.reasons) == (4, {"erased": 3})
    assert bench.rows("SELECT count(*) FROM claim") == bench.rows("SELECT count(*) FROM text") == [(0,)]


def test_what_was_under_way_goes_as_it_passes_the_store(bench: Bench) -> None:
    """Cleaned before the erasure, and published after it."""
    bench.bus.publish([raw(RAW)])
    stored(bench)
    erase_text(bench.settings, ID, HOW)
    late = json.loads(clean_text(ID, "Halvorsen fell").value) | {"origin": [topics.RAW, 0, 0]}
    bench.bus.publish([Outgoing(topics.CLEAN, ID.encode(), json.dumps(late).encode())])
    bench.rows("INSERT INTO claim VALUES (%s, 'x', 'texts.raw', 0, 0, 1) RETURNING 1", ID)
    stored(bench)
    assert values(bench, topics.CLEAN) == [ERASED]
    assert bench.rows("SELECT count(*) FROM text") == bench.rows("SELECT count(*) FROM claim") == [(0,)]


def test_the_account_adds_up_wherever_a_text_was_erased(bench: Bench, opened: Any) -> None:
    del opened
    texts = [RawText(text=f"Profit at Harlow rises to {n} million", source="s", id=str(n)) for n in range(3)]
    bench.bus.publish([raw(text) for text in texts])
    erase_text(bench.settings, text_id(texts[0]), HOW)  # nobody has read it yet
    cleaned(bench)
    erase_text(bench.settings, text_id(texts[1]), HOW)  # cleaned, not scored
    register_bundled(bench.bus)
    bench.run(worker.serve, lambda: bench.caught_up(worker.GROUP, topics.CLEAN), 60)
    stored(bench)
    stored(bench)  # its own letters
    account = status.collect(bench.settings).account
    assert (account.taken, account.scored, account.dead, account.waiting) == (3, 1, 2, 0)
    assert account.reasons == {"clean:erased": 1, "score:erased": 1}
    bench.bus.seek(store.GROUP, bench.bus.begins(topics.CLEAN))
    stored(bench)
    assert len(values(bench, topics.dead(topics.CLEAN))) == 1, "read again, it is passed over"


def test_a_sweep_that_fails_stops_nobody(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    away = msgspec.structs.replace(bench.settings, database="postgresql://nobody@127.0.0.1:1/none")
    bench.bus.publish([clean_text("a")])
    with closing(bench.bus.reader([topics.CLEAN])) as reader:
        sweep.Sweep(away.connector("store"), bench.bus)(reader.poll(5))
    assert "until their retention" in caplog.text


def test_an_annotator_leaves_labels_that_are_nobodys_and_teach_no_more(bench: Bench) -> None:
    with database(bench.settings) as cursor:
        ana, bob = (annotators.pseudonym(cursor, name) for name in ("ana", "bob"))
        assert annotators.pseudonym(cursor, "ana") == ana != bob
        assert annotators.names(cursor, [ana, "x"]) == {ana: "ana"}
    bench.bus.publish([event for name in "abc" for event in (clean_text(name), published(prediction(name)))])
    stored(bench)
    for name, who in (("a", ana), ("b", bob)):
        example(bench, name, name, who)
        bench.rows("INSERT INTO comment VALUES (%s, 'hm', 't', %s) RETURNING 1", name, who)
    learn(bench, "v1", None, 1)
    bench.rows("INSERT INTO api_key VALUES ('k', 'ana', 'annotator', 'h', 1) RETURNING 1")
    dry = erase_annotator(bench.settings, "ana", HOW._replace(dry=True))
    done = erase_annotator(bench.settings, "ana", HOW._replace(retrain=True))
    assert dry.rows == done.rows == {"annotator": 1, "api_key": 1, "comment": 1}
    assert (done.subjects, done.versions, done.retrain) == ([ana], ["v1"], ASKED)
    assert bench.rows("SELECT name FROM annotator") == [("bob",)]
    assert bench.rows("SELECT feedback_id FROM comment") == [("b",)]
    assert bench.rows("SELECT count(*) FROM api_key") == [(0,)]
    assert bench.rows("SELECT count(*) FROM example WHERE annotator = %s", ana) == [(1,)]
    with database(bench.settings) as cursor:
        assert [e.example_id for part in dataset.collect(cursor)[:2] for e in part] == ["b"]
        assert annotators.pseudonym(cursor, "ana") != ana, "who comes again is somebody else"
    with pytest.raises(Rejected, match="nobody called eve"):
        erase_annotator(bench.settings, "eve", HOW)


def test_who_learned_from_what(bench: Bench) -> None:
    for number, text in enumerate(("a", "b", "h"), start=1):
        example(bench, f"e{number}", text, holdout=text == "h")
    example(bench, "e4", "a")  # changed later: the last word counts
    learn(bench, "base", None, 0, 1)
    learn(bench, "v1", "base", 2, 2)
    learn(bench, "v2", "v1", 4, 3)
    bench.rows("INSERT INTO model_version VALUES ('v3', 'v2', '{}', '{}', 4), ('w', 'base', '{}', '{}', 5) RETURNING 1")
    with database(bench.settings) as cursor:
        assert learned(cursor, "v1") == ["e1", "e2"] and sorted(learned(cursor, "v2")) == ["e2", "e4"]
        assert learned(cursor, "base") == learned(cursor, "unknown") == []
        assert learners(cursor, ["e1"]) == ["v1"] and learners(cursor, ["e2"]) == ["v1", "v2"]
        assert learners(cursor, ["e3"]) == [], "what is held out teaches nobody"
        assert heirs(cursor, ["v1"]) == ["v2", "v3"]
        assert nearest_clear(cursor, "v3", {"v1", "v2", "v3"}) == "base"
        assert nearest_clear(cursor, "w", {"v1"}) == "w"
        assert nearest_clear(cursor, "v1", {"v1", "base"}) is None


def test_a_retraining_begins_where_nothing_erased_was_learned(bench: Bench) -> None:
    bench.bus.publish([clean_text("a"), published(prediction("a"))])
    stored(bench)
    example(bench, "e1", "a")
    learn(bench, "base", None, 0, 1)
    learn(bench, "v1", "base", 1, 2)
    learn(bench, "v2", "v1", 0, 3)
    bench.rows("INSERT INTO model_version VALUES ('v3', 'base', '{}', '{}', 4) RETURNING 1")
    with database(bench.settings) as cursor:
        cursor.execute("INSERT INTO ledger VALUES (1, 'promote', 'v3', NULL, 'a', 'r', '{}', 1, '', '')")
        assert request.asked(cursor) is None
    done = erase_text(bench.settings, "a", HOW._replace(retrain=True))
    assert (done.versions, done.inherited, done.retrain) == (["v1"], ["v2"], ASKED)
    bench.rows("UPDATE model_version SET parent = 'v2' WHERE version = 'v3' RETURNING 1")  # an heir that came since
    with database(bench.settings) as cursor:
        found = request.asked(cursor)
        assert found is not None and found.start == "base"
        request.answer(cursor, found, "made v4")
        assert request.asked(cursor) is None
        assert learned(cursor, "v1") == ["e1"], "what a model learned is no less true"
        learn(bench, "v4", "base", 1, 2**53)
        assert learned(cursor, "v4") == [], "it was erased before that run"
        assert dataset.collect(cursor).learn == []


def test_hashes_are_keyed_and_of_one_kind(bench: Bench) -> None:
    one, other = Mark("sent", b"x"), Mark("cleaned", b"x")
    with database(bench.settings) as cursor:
        assert refused(cursor, [one]) == set()
        refuse(cursor, [one, one])
        assert refused(cursor, [one, other]) == {one}
        cursor.execute("UPDATE erased_key SET bytes = decode(repeat('00', 32), 'hex')")
        assert refused(cursor, [one]) == set(), "without its key a hash tells nothing"


def test_a_cluster_is_followed_through_copies_of_copies() -> None:
    pairs = [("b", "a"), ("c", "b"), ("x", "y"), ("d", "a")]
    assert cluster("c", pairs) == {"a", "b", "c", "d"}
    assert cluster("z", pairs) == {"z"}


def test_the_planner_keeps_no_texts(bench: Bench) -> None:
    """ANALYZE would copy values into pg_statistic."""
    bench.bus.publish([clean_text(f"t{n}", f"Needle {n} rises") for n in range(50)])
    stored(bench)
    bench.rows("INSERT INTO comment SELECT 'c' || n, 'Needle ' || n FROM generate_series(1, 50) n RETURNING 1")
    with closing(bench.settings.connector("test")()) as connection:
        connection.autocommit = True
        connection.cursor().execute("ANALYZE")
    values = "coalesce(most_common_vals::text, '') || coalesce(histogram_bounds::text, '')"
    found = f"SELECT count(*) FROM pg_stats WHERE {values} LIKE %s"  # noqa: S608 (our own)
    assert bench.rows(found, "%t1%") != [(0,)], "it does keep ids"
    assert bench.rows(found, "%Needle%") == bench.rows(found, "%" + b"Needle".hex() + "%") == [(0,)]
