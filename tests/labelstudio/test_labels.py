"""`tickerloop labels`: tasks as Label Studio takes them, its exports as feedback.

`export.json` was written for this project in the structure of Label Studio's own exports in the format JSON.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psycopg2
import pytest
from click.testing import CliRunner, Result
from gateway_kit import made

from services.cli import main
from services.labelstudio import Said, Unfit, read
from services.settings import Settings
from services.stream import topics
from services.stream.bus import Bus, read_to_end
from services.stream.errors import Rejected
from services.stream.events import Feedback, Prediction, decode, in_holdout

EXPORT = (Path(__file__).parent / "export.json").read_text(encoding="utf-8")
ONE, TWO = made(1), made(2)


def exported() -> list[dict[str, Any]]:
    """The fixture, of predictions one and two."""
    text = EXPORT.replace("PREDICTION-1", ONE.prediction_id).replace("PREDICTION-2", TWO.prediction_id)
    found: list[dict[str, Any]] = json.loads(text)
    return found


@pytest.fixture
def bus(database: str) -> Iterator[Bus]:
    with closing(Settings(database=database).open_bus("test")) as opened:
        opened.create_topics()
        yield opened


@pytest.fixture
def store(database: str) -> Callable[..., None]:
    """The rows that the store would write."""

    def write(*predictions: Prediction, texts: bool = True) -> None:
        with closing(psycopg2.connect(database)) as connection, connection, connection.cursor() as cursor:
            for p in predictions:
                cursor.execute(
                    "INSERT INTO prediction (prediction_id, text_id, cluster, label, negative, neutral, positive,"
                    " model, epoch, tickers, source, language, event_time, scored, truncated, origin_partition,"
                    " origin_offset)"
                    " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, 1, %s, %s, 'en', %s, 0, false, 0, 0)",
                    (
                        p.prediction_id, p.text_id, p.cluster, p.label, *p.probabilities, p.model, list(p.tickers),
                        p.source, p.event_time,
                    ),
                )  # fmt: skip
                if texts:
                    cursor.execute(
                        "INSERT INTO text (text_id, cluster, body, source, language, marks, event_time, received)"
                        " VALUES (%s, %s, %s, 's', 'en', '{}', 0, 0)",
                        (p.text_id, p.cluster, f"text of {p.text_id}"),
                    )

    return write


def call(database: str, *arguments: str, exit_code: int = 0) -> Result:
    answer = CliRunner().invoke(main, ["labels", *arguments], env={"TICKERLOOP_DATABASE": database})
    assert answer.exit_code == exit_code, answer.output
    return answer


def words(bus: Bus) -> list[Feedback]:
    with closing(bus.reader([topics.FEEDBACK])) as reader:
        return [decode(Feedback, record.value) for record in read_to_end(reader, bus.ends(topics.FEEDBACK))]


def saved(tmp_path: Path, content: Any) -> str:
    path = tmp_path / "export.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


def test_the_configuration_names_what_tasks_and_annotations_name(database: str) -> None:
    view = ElementTree.fromstring(call(database, "config").stdout)  # noqa: S314 (our own)
    (text,), (choices,) = view.findall("Text"), view.findall("Choices")
    assert text.attrib == {"name": "text", "value": "$text"}
    assert choices.attrib["toName"] == "text" and choices.attrib["choice"] == "single"
    assert [(c.attrib["value"], c.attrib["hotkey"]) for c in choices] == [
        ("negative", "1"), ("neutral", "2"), ("positive", "3"),
    ]  # fmt: skip
    names = {result["from_name"] for result in exported()[0]["annotations"][0]["result"]}
    assert names == {choices.attrib["name"]}


def test_all_predictions_of_a_filter_as_tasks(
    database: str, store: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.labelstudio.cli.PAGE", 2)
    store(ONE, TWO, made(3, label="negative", tickers=("XYZ",)), made(4, source="wire"), made(6), made(7))
    store(made(5), texts=False)
    tasks = json.loads(call(database, "export", "--all").stdout)
    assert [t["data"]["text_id"][-1] for t in tasks] == ["7", "6", "4", "3", "2", "1"]
    assert tasks[-1] == {
        "data": {
            "text": "text of text000001", "prediction_id": ONE.prediction_id, "text_id": "text000001",
            "sampled": False, "source": "test", "tickers": ["ACME"], "published": "2023-11-14T22:13:20+00:00",
        },
        "predictions": [
            {
                "model_version": "base-1",
                "score": 0.8,
                "result": [
                    {
                        "id": ONE.prediction_id[:10], "from_name": "sentiment", "to_name": "text", "type": "choices",
                        "value": {"choices": ["positive"]},
                    }
                ],
            }
        ],
    }  # fmt: skip
    for options, expected in (
        (["--limit", "2"], ["7", "6"]), (["--ticker", "xyz"], ["3"]), (["--label", "negative"], ["3"]),
        (["--source", "wire"], ["4"]),
    ):  # fmt: skip
        some = json.loads(call(database, "export", "--all", *options).stdout)
        assert [t["data"]["text_id"][-1] for t in some] == expected


def test_the_queue_as_tasks_says_what_was_drawn_at_random(database: str, store: Callable[..., None]) -> None:
    found = [made(number) for number in range(60)]
    store(*found)
    tasks = json.loads(call(database, "export", "--limit", "40").stdout)
    assert len({t["data"]["prediction_id"] for t in tasks}) == 40
    held = {p.prediction_id for p in found if in_holdout(p.cluster)}
    assert {t["data"]["prediction_id"]: t["data"]["sampled"] for t in tasks} == {
        t["data"]["prediction_id"]: t["data"]["prediction_id"] in held for t in tasks
    }
    assert any(t["data"]["sampled"] for t in tasks)


def test_options_that_go_with_the_other_list_are_misuse(database: str) -> None:
    assert "add --all" in call(database, "export", "--source", "x", exit_code=2).output
    assert "--language" in call(database, "export", "--all", "--language", "en", exit_code=2).output
    assert "WHO=NAME" in call(database, "import", __file__, "--who", "ana", exit_code=2).output


def named(database: str) -> dict[str, str]:
    """Names by pseudonym."""
    with closing(psycopg2.connect(database)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SELECT pseudonym, name FROM annotator")
        return dict(cursor.fetchall())


def test_annotations_become_feedback_once(database: str, store: Callable[..., None], bus: Bus, tmp_path: Path) -> None:
    store(ONE, TWO)
    path = saved(tmp_path, exported())
    arguments = ("import", path, "--who", "ana@desk.example=ana", "--who", "15=bo")
    assert call(database, *arguments).stdout == "2 taken, 0 known before, 0 refused\n"
    who = named(database)
    first, second = sorted(words(bus), key=lambda word: who[word.annotator])
    assert (who[first.annotator], first.label, first.kind, first.sampled) == ("ana", "negative", "correction", True)
    assert (who[second.annotator], second.label, second.kind) == ("bo", "positive", "confirmation")
    assert {first.role, second.role} == {"local"}, "as of this machine's operator, where there are no keys"
    assert (first.prediction_id, first.text_id, first.given) == (ONE.prediction_id, ONE.text_id, 1_768_479_000_000)
    assert call(database, *arguments).stdout.startswith("2 taken"), "not stored yet: sent again"
    assert len({word.feedback_id for word in words(bus)}) == 2, "under the same ids"
    with closing(psycopg2.connect(database)) as connection, connection, connection.cursor() as cursor:
        for word in (first, second):
            cursor.execute(
                "INSERT INTO feedback (feedback_id, prediction_id, text_id, kind, label, annotator, sampled, given)"
                " VALUES (%s, %s, %s, %s, %s, %s, false, 0)",
                (word.feedback_id, word.prediction_id, word.text_id, word.kind, word.label, word.annotator),
            )
    assert call(database, *arguments).stdout == "0 taken, 2 known before, 0 refused\n"
    changed = exported()
    annotation = changed[0]["annotations"][0]
    annotation["result"][0]["value"]["choices"] = ["neutral"]
    annotation["updated_at"] = "2026-01-16T09:00:00.000000Z"
    arguments = ("import", saved(tmp_path, changed), *arguments[2:])
    assert call(database, *arguments).stdout == "1 taken, 1 known before, 0 refused\n"
    assert "neutral" in {word.label for word in words(bus)}


def broken(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    whole = copy.deepcopy(exported()[0])
    change(whole)
    return whole


CASES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "not ours": (lambda t: t["data"].pop("prediction_id"), "task 2 (id 6141): .*prediction_id.*labels export"),
    "json-min": (lambda t: t.pop("annotations"), "task 2 (id 6141): .*annotations.*not JSON-MIN"),
    "another text": (lambda t: t["data"].update(text_id="t"), "annotation 1 (id 18047): .*is not of text t"),
    "unknown": (lambda t: t["data"].update(prediction_id="p"), "annotation 1 (id 18047): there is no prediction p"),
    "label": (
        lambda t: t["annotations"][0]["result"][0]["value"].update(choices=["bullish"]),
        "annotation 1 (id 18047): 'bullish' is no label; it takes negative, neutral, positive",
    ),
    "two": (
        lambda t: t["annotations"][0]["result"][0]["value"].update(choices=["negative", "neutral"]),
        "annotation 1 (id 18047): it has not exactly one choice named sentiment",
    ),
    "none": (
        lambda t: t["annotations"][0]["result"][0].update(from_name="topic"),
        "annotation 1 (id 18047): it has not exactly one choice named sentiment",
    ),
    "who": (
        lambda t: t["annotations"][0].pop("completed_by"),
        "annotation 1 (id 18047): it is by nobody: .*--annotator",
    ),
    "shape": (lambda t: t["annotations"][0].update(result="x"), "task 2 (id 6141), annotation 1: Expected `array`"),
    "id": (lambda t: t["annotations"][0].pop("id"), "task 2 (id 6141), annotation 1: .*`id`"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_fit_is_named_and_the_rest_is_taken(
    case: str, database: str, store: Callable[..., None], bus: Bus, tmp_path: Path
) -> None:
    change, expected = CASES[case]
    store(ONE, TWO)
    path = saved(tmp_path, [exported()[0], broken(change)])
    answer = call(database, "import", path, "--who", "14=ana", "--who", "15=bo", exit_code=1)
    assert re.search(expected.replace("(", r"\(").replace(")", r"\)"), answer.stderr), answer.stderr
    assert {named(database)[word.annotator] for word in words(bus)} >= {"ana", "bo"}
    refused = json.loads(call(database, "import", path, "--who", "15=bo", "--json", exit_code=1).stdout)["refused"]
    assert all(entry["place"] and entry["why"] for entry in refused)


def test_a_file_that_is_no_export_is_one_line(database: str, tmp_path: Path) -> None:
    for content in ("id,text\n1,x\n", "", "[" * 100_000):
        answer = call(database, "import", saved(tmp_path, content), "--annotator", "ana", exit_code=3)
        assert "format JSON" in answer.output
    with pytest.raises(Rejected):
        list(read(b"\xff"))


def test_what_was_exported_and_annotated_comes_back(database: str, store: Callable[..., None]) -> None:
    store(ONE)
    (made_task,) = json.loads(call(database, "export", "--all").stdout)
    annotated = made_task | {
        "id": 1,
        "annotations": [{"id": 9, "result": made_task["predictions"][0]["result"], "completed_by": 1}],
    }
    (said,) = read(json.dumps(annotated).encode())
    assert isinstance(said, Said)
    assert (said.prediction_id, said.text_id) == (ONE.prediction_id, ONE.text_id)
    assert (said.label, said.who) == ("positive", ("1",))
    (unfit,) = read(b'{"text": "flat"}')
    assert isinstance(unfit, Unfit)
