"""Training runs as processes that are killed with -9: they go on, end with the same bits, and die with the trainer."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
import torch
from loop.conftest import Bench
from loop.makers import clean_text, prediction, published
from loop.scoring import eventually
from psycopg2.extensions import cursor as Cursor
from safetensors import safe_open
from score import shapes
from transformers import BertModel

from services import cli, status, store
from services.score import artifact
from services.score.artifact import Model
from services.score.base import Encoding, find
from services.score.engine import embed, open_engine, open_runtime
from services.stream.bus import Outgoing
from services.stream.errors import Misconfigured
from services.stream.events import LABELS, in_holdout
from services.trainer import beside, registry, run
from services.trainer.anchors import anchors
from services.trainer.beside import NICE
from services.trainer.checkpoint import FOLDER
from services.trainer.head import fit
from services.trainer.progress import Training, under_way
from services.trainer.setup import register_bundled

ROOT = Path(__file__).parents[2]
TEXTS = (
    "Copper rallies as a mine strike drags on", "Bumper harvest expected across the plains", "Wheat falls on rain",
    "Refinery outage lifts crack spreads", "Zinc stocks pile up in the warehouses", "Frost threatens the coffee crop",
    "Cocoa grinders cut their orders", "Pipeline restart weighs on gas", "Tin smelter shut for a second month",
    "Record sugar crush in the south", "Drought shrinks the soy crop", "Nickel glut deepens",
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A head over a BERT of random weights, whose steps take milliseconds."""
    folder = tmp_path_factory.mktemp("bert")
    vocabulary = shapes.tokenizer("bert", folder)
    torch.manual_seed(1)
    BertModel(shapes.CONFIGS["bert"](vocab_size=vocabulary)).save_pretrained(folder, safe_serialization=True)
    encoding = Encoding(find(str(folder)))
    features = embed(open_runtime(encoding, device="cpu", threads=1), [a.text for a in anchors()])
    labels = np.eye(3, dtype=np.float32)[[LABELS.index(a.label) for a in anchors()]]
    head = fit(features, labels, np.ones(len(labels), np.float32))
    examples = dict(zip([a.text for a in anchors()[:3]], features, strict=False))
    return artifact.make(head, 1.0, encoding, dataset="", parent=None, metrics={}, examples=examples, languages=("en",))


def promoted(bench: Bench, model: Model) -> None:
    def write(cursor: Cursor) -> list[Outgoing]:
        registry.register(cursor, model.card.version, None, artifact.files_of(model))
        row = registry.decide(
            cursor, "promote", model.card.version, actor="setup", reason="a test", evidence={}, expected_epoch=0
        )
        return [registry.announcement(row)]

    bench.bus.write(write)


@pytest.fixture
def labelled(bench: Bench, tiny: Model) -> Bench:
    """The tiny champion, and labels on texts."""
    promoted(bench, tiny)
    return words(bench)


def words(bench: Bench) -> Bench:
    """Texts that people labelled, and some that nobody did."""
    bench.settings = msgspec.structs.replace(bench.settings, device="cpu", threads=1, checkpoint_s=0.3)
    names = [name for number in range(40) if not in_holdout(name := f"t{number}")][: len(TEXTS)]
    events = [e for n, text in zip(names, TEXTS, strict=True) for e in (clean_text(n, text), published(prediction(n)))]
    bench.bus.publish(events)
    bench.run(store.serve, lambda: bench.caught_up(store.GROUP, *store.TOPICS))
    for number, name in enumerate(names[:9]):
        bench.rows(
            "INSERT INTO example (example_id, feedback_id, prediction_id, text_id, cluster, predicted, label, model,"
            " epoch, annotator, sampled, holdout, given)"
            " VALUES (%s, %s, %s, %s, %s, 'neutral', %s, 'm1', 1, 'ana', false, false, 1) RETURNING 1",
            *(name,) * 5,
            ("positive", "negative")[number % 2],
        )
    return bench


EPOCHS = 40


def started(bench: Bench, method: str, epochs: int = EPOCHS) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__).with_name("finetune_run.py")), method, str(epochs)]
    environment = os.environ | bench.settings.environment() | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> str:
    """The version that it made."""
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    return said.split()[-1]


def step_kept(bench: Bench) -> int:
    """Of the checkpoint that is there; 0 without one."""
    for file in (bench.settings.data_folder / FOLDER).glob("*.safetensors"):
        with safe_open(file, "np") as content:
            return int(msgspec.json.decode(content.metadata()["facts"])["step"])
    return 0


@pytest.mark.parametrize(("method", "kills"), [("lora", 2), ("full", 1)])
def test_a_run_killed_again_and_again_makes_the_same_model(labelled: Bench, method: str, kills: int) -> None:
    chance = random.Random(method)
    kept = [0]
    for _ in range(kills):
        process = started(labelled, method)
        eventually(lambda: step_kept(labelled) > kept[-1], "no checkpoint came", 200)
        time.sleep(chance.uniform(0.0, 0.3))
        process.kill()
        process.communicate()
        kept.append(step_kept(labelled))
    killed = len(labelled.rows("SELECT 1 FROM training_run"))
    assert killed == kills and kept == sorted(set(kept)), "each went on from where the one before was"
    version = ended(started(labelled, method))
    assert not (labelled.settings.data_folder / FOLDER).exists()
    states = [state for (state,) in labelled.rows("SELECT state FROM training_run ORDER BY run")]
    assert states == ["failed"] * kills + ["refused"]
    assert ended(started(labelled, method)) == version
    assert labelled.rows("SELECT count(DISTINCT version) FROM ledger WHERE actor = 'trainer'") == [(1,)]
    adapters = "SELECT count(DISTINCT coalesce(card ->> 'adapter', '')) FROM model_version"
    assert labelled.rows(adapters) == [(2,)], "its encoder has learned nothing"


def test_what_is_registered_is_an_adapter_and_a_head_that_serve(bench: Bench) -> None:
    register_bundled(bench.bus)
    version = ended(started(words(bench), "lora", 1))
    with closing(bench.settings.connector("test")()) as connection, connection.cursor() as cursor:
        folder = registry.fetch(cursor, version, bench.settings.model_cache)
    parent, tuned = artifact.load(artifact.bundled()), artifact.load(folder)
    assert tuned.card.parent == parent.card.version and tuned.card.base == parent.card.base
    assert tuned.adapter.keys() == parent.adapter.keys() and tuned.card.adapter != parent.card.adapter
    open_engine(folder, device="cpu", threads=1, cache=bench.settings.model_cache)  # gives its stored answers


def training(bench: Bench) -> Training | None:
    with closing(bench.settings.connector("test")()) as connection, connection.cursor() as cursor:
        return under_way(cursor)


def test_how_far_a_run_is_can_be_seen_until_it_dies(labelled: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    process = started(labelled, "lora")
    seen: list[Training] = []

    def tuning() -> bool:
        found = training(labelled)
        seen.extend([found] if found else [])
        return bool(seen) and "step" in seen[-1].detail

    eventually(tuning, "no step was told", 200)
    detail = seen[-1].detail
    assert detail["stage"] == "tuning" and detail["method"] == "lora" and detail["learn"] == 9
    assert 0 < detail["step"] < detail["of"] and detail["eta_s"] > 0 and detail["loss"] > 0  # type: ignore[operator]
    cli._print_status(status.collect(labelled.settings))
    assert "training (test, lora): tuning, step" in capsys.readouterr().out
    process.kill()
    process.communicate()
    eventually(lambda: training(labelled) is None, "a dead run still shows", 20)
    assert labelled.rows("SELECT state FROM training_run") == [("running",)]


def test_a_run_is_a_child_of_low_priority(labelled: Bench) -> None:
    labelled.settings = msgspec.structs.replace(labelled.settings, method="head")
    context, own, nice = labelled.context("trainer"), psutil.Process(), []
    with ThreadPoolExecutor() as pool:
        done = pool.submit(beside.train, context, "volume")
        while not done.done():
            for child in own.children():
                with suppress(psutil.Error):  # it may just have ended
                    nice.extend([child.nice()] if "services.trainer.beside" in child.cmdline() else [])
            time.sleep(0.01)
    assert done.result() and max(nice) == own.nice() + NICE
    assert labelled.rows("SELECT trigger, state, detail ->> 'method' FROM training_run") == [
        ("volume", "refused", "head")
    ]


PARENT = """
import time
from services.settings import from_environment
from services.trainer.beside import start
print(start(from_environment(), "test").pid, flush=True)
time.sleep(600)
"""


def test_a_run_dies_with_its_trainer(labelled: Bench) -> None:
    environment = os.environ | labelled.settings.environment() | {"PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", PARENT], env=environment, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    eventually(lambda: training(labelled) is not None, "no run began", 200)
    parent.kill()
    parent.communicate()
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "it outlives its trainer", 10)
    eventually(lambda: training(labelled) is None, "its lock outlives it", 20)


def test_over_another_encoder_there_is_nothing_to_go_on_from(labelled: Bench) -> None:
    with pytest.raises(Misconfigured, match="leave --method out"):
        run.train_once(
            labelled.settings, "command", lambda _: None,
            encoder="sentence-transformers/all-MiniLM-L6-v2", method="lora",
        )  # fmt: skip
