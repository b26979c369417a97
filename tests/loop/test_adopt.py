"""A classifier from Hugging Face as a model here: added, promoted, served, and taught by corrections."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from loop.conftest import Bench
from score import shapes

from services.cli import main
from services.score.base import EXPORT, LOGITS
from services.score.worker import Worker
from services.stream import topics
from services.stream.bus import Outgoing, Record
from services.stream.events import CleanText, Origin, Prediction, decode, encode
from services.trainer import adopt, run
from services.trainer.promotion import Promoter
from services.trainer.setup import register_bundled

TEXTS = {"en": "Profit rises", "zh": "公司股价大涨"}


@pytest.fixture(autouse=True)
def few_anchors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adopt, "COMPARED", 20)


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes.make("xlm-roberta", tmp_path_factory.mktemp("xlm-roberta"))


@pytest.fixture(scope="module")
def unnamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes.make("distilbert", tmp_path_factory.mktemp("distilbert"), {0: "LABEL_0", 1: "LABEL_1"})


@pytest.fixture
def set_up(bench: Bench) -> Bench:
    bench.settings = msgspec.structs.replace(bench.settings, device="cpu")
    register_bundled(bench.bus)
    return bench


def add(bench: Bench, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["models", "add", *arguments], env=bench.settings.environment())


def version_in(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout.split("model ")[1].split(" ")[0]


def predicted(worker: Worker) -> dict[str, Prediction]:
    """What the worker makes of one text of each language."""
    records = []
    for number, (language, text) in enumerate(TEXTS.items()):
        event = CleanText(
            text_id=language, cluster=language, text=text, source="wire", event_time=1, received=1, language=language,
            origin=Origin(topics.RAW, 0, number),
        )  # fmt: skip
        records.append(Record(topics.CLEAN, 0, number, 1, language.encode(), encode(event)))
    events = [answer[0] for answer in worker.step(records) if isinstance(answer, (list, tuple))]
    assert all(isinstance(event, Outgoing) for event in events)
    return {language: decode(Prediction, event.value or b"") for language, event in zip(TEXTS, events, strict=True)}


def promote(bench: Bench, version: str) -> None:
    Promoter(bench.bus, bench.settings.connector("test"), 0).promote(version, actor="ana", reason="a test", evidence={})


def test_one_that_reads_chinese_serves_it_unmarked(set_up: Bench, multilingual: Path) -> None:
    worker = Worker(set_up.context("score"))
    worker.start()
    assert {language: p.foreign for language, p in predicted(worker).items()} == {"en": False, "zh": True}

    said = add(set_up, str(multilingual), "--languages", "en,zh")
    version = version_in(said)
    assert "positive counts as positive" in said.stderr and "fp32_agreement" in said.stderr
    assert f"tickerloop models promote {version}" in said.stdout
    promote(set_up, version)
    worker = Worker(set_up.context("score"))
    worker.start()
    found = predicted(worker)
    assert {p.model for p in found.values()} == {version}
    assert not any(p.foreign for p in found.values())
    assert worker.current.engine.card.export == LOGITS
    assert worker.current.engine.card.threshold is None and not any(p.abstained for p in found.values())


def test_its_challenger_is_a_fresh_head_over_the_same_encoder(set_up: Bench, multilingual: Path) -> None:
    version = version_in(add(set_up, str(multilingual), "--languages", "en,zh"))
    promote(set_up, version)
    set_up.rows(
        "INSERT INTO text (text_id, cluster, body, source, language, marks, event_time, received)"
        " VALUES ('b', 'b', '公司利润下跌', 'wire', 'zh', '{}', 1, 1) RETURNING 1"
    )
    set_up.rows(
        "INSERT INTO example (example_id, feedback_id, prediction_id, text_id, cluster, predicted, label, model, epoch,"
        " annotator, sampled, holdout, given)"
        " VALUES ('e', 'f', 'p', 'b', 'b', 'neutral', 'positive', 'm1', 1, 'ana', false, false, 1) RETURNING 1"
    )
    said: list[str] = []
    outcome = run.train_once(set_up.settings, "command", said.append)
    assert any("answers by its own classifier; its challenger is a fresh head" in line for line in said)
    ((parent, card),) = set_up.rows("SELECT parent, card FROM model_version WHERE version = %s", outcome.version)
    assert (parent, card["export"], card["languages"]) == (version, EXPORT, ["en", "zh"])
    assert card["base"]["name"] == str(multilingual.resolve())
    assert outcome.verdict.anchor_challenger.right > outcome.verdict.anchor_champion.right, "a random classifier"
    promote(set_up, outcome.version)
    worker = Worker(set_up.context("score"))
    worker.start()
    assert not any(p.foreign for p in predicted(worker).values())
    said.clear()
    again = run.train_once(set_up.settings, "command", said.append)
    assert again.version != outcome.version and not any("fresh head" in line for line in said)


def test_labels_that_can_not_be_guessed_are_asked_for(set_up: Bench, unnamed: Path, tmp_path: Path) -> None:
    refused = add(set_up, str(unnamed))
    words = " ".join(refused.stderr.split())
    assert refused.exit_code == 3 and "the model's labels are LABEL_0, LABEL_1" in words and "--label-map" in words
    mapping = '{"LABEL_0": "negative", "LABEL_1": "positive"}'
    (tmp_path / "map.json").write_text(mapping)
    version = version_in(add(set_up, str(unnamed), "--label-map", mapping))
    assert version_in(add(set_up, str(unnamed), "--label-map", str(tmp_path / "map.json"))) == version
    ((card,),) = set_up.rows("SELECT card FROM model_version WHERE version = %s", version)
    assert [example["probabilities"][1] for example in card["examples"]] == [0] * 10
    assert set_up.rows("SELECT count(*) FROM ledger") == [(1,)], "nothing was promoted"


def test_what_is_no_map_and_no_language_is_misuse(set_up: Bench, unnamed: Path) -> None:
    for arguments, words in (
        (("--label-map", '{"LABEL_0": 1}'), "takes a JSON object"),
        (("--label-map", "nowhere.json"), "takes a JSON object"),
        (("--languages", "english"), "no text is found to be in english"),
    ):
        refused = add(set_up, str(unnamed), *arguments)
        assert refused.exit_code == 2 and words in " ".join(refused.stderr.split())


def test_one_whose_answers_depend_on_the_batch_is_refused(
    set_up: Bench, unnamed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = adopt.embed
    monkeypatch.setattr(adopt, "embed", lambda runtime, texts: embed(runtime, texts) * len(texts))
    refused = add(set_up, str(unnamed), "--label-map", '{"LABEL_0": "negative", "LABEL_1": "positive"}')
    assert refused.exit_code == 3 and "depends on others in its batch" in " ".join(refused.stderr.split())
