"""The encoder: found, exported once, and the same on every runtime."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from services.score import artifact
from services.score.base import CONFIG, TOKENIZER, WEIGHTS, Encoding, check, exported, find, sha256
from services.score.batching import BUDGET
from services.score.engine import Engine, OnnxEncoder, Runtime, embed, open_runtime
from services.score.lanes import Lanes
from services.stream.errors import Misconfigured
from services.trainer.anchors import anchors


def slow_export(encoding: Encoding, file: Path) -> None:
    assert (encoding.base.folder / WEIGHTS).is_file()
    time.sleep(0.5)
    file.write_bytes(b"an encoder")
    with (file.parents[2] / "builds").open("a") as log:
        log.write("x")


def build(cache: Path) -> str:
    return sha256(exported(Encoding(find()), cache, slow_export))


def test_processes_that_start_at_once_build_once(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert len(set(pool.map(build, [tmp_path] * 6))) == 1
    assert (tmp_path / "builds").read_text() == "x"


def test_a_damaged_export_is_built_again(tmp_path: Path) -> None:
    file = exported(Encoding(find()), tmp_path, slow_export)
    file.write_bytes(b"an encodes")
    assert exported(Encoding(find()), tmp_path, slow_export).read_bytes() == b"an encoder"
    assert (tmp_path / "builds").read_text() == "xx"


def test_an_export_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(_: Encoding, file: Path) -> None:
        file.write_bytes(b"half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        exported(Encoding(find()), tmp_path, fail)
    (folder,) = tmp_path.iterdir()
    assert [path.name for path in folder.iterdir()] == [".lock"]
    assert exported(Encoding(find()), tmp_path, slow_export).read_bytes() == b"an encoder"


def test_a_local_folder_is_a_base_too(tmp_path: Path, runtime: Runtime) -> None:
    for name in (WEIGHTS, TOKENIZER, CONFIG):
        shutil.copy(find().folder / name, tmp_path / name)
    base = find(str(tmp_path))
    adapter = runtime.encoding.adapter
    assert Encoding(base, adapter).key == runtime.key  # by content, not by name
    assert Encoding(base).key != runtime.key
    (tmp_path / CONFIG).write_text((tmp_path / CONFIG).read_text() + "\n")
    with pytest.raises(Misconfigured, match=r"config\.json is [0-9a-f]{64}, not 953f9c0d"):
        check(find(str(tmp_path)).files, find().files)


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Misconfigured, match=r"has no model\.safetensors, tokenizer\.json, config\.json"):
        find(str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(Misconfigured, match="neither a folder nor a model"):
        find("nobody/such-encoder")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, runtime: Runtime) -> Runtime:
    """The fp32 graph, as it is before quantisation."""
    from services.score.export import traced

    file = tmp_path_factory.mktemp("fp32") / "encoder.onnx"
    onnx.save(traced(runtime.encoding), str(file))
    return runtime._replace(lanes=Lanes(OnnxEncoder(file), BUDGET, 2))


TEXTS = [anchor.text for anchor in anchors()[:120]]


def test_torch_gives_the_exports_features(reference: Runtime, runtime: Runtime) -> None:
    from services.score.features import TorchEncoder

    on_torch = embed(runtime._replace(lanes=Lanes(TorchEncoder(runtime.encoding, "cpu"), BUDGET, 1)), TEXTS)
    assert np.abs(on_torch - embed(reference, TEXTS)).max() < 1e-3


def test_int8_stays_close_to_fp32(reference: Runtime, runtime: Runtime, engine: Engine) -> None:
    exact, rounded = embed(reference, TEXTS), embed(runtime, TEXTS)
    assert np.sqrt(np.mean((exact - rounded) ** 2) / np.mean(exact**2)) < 0.06
    labels = [engine.probabilities(features).argmax(axis=1) for features in (exact, rounded)]
    assert np.mean(labels[0] == labels[1]) > 0.95


def test_cuda_without_a_gpu_is_misconfigured(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(Misconfigured, match="finds no GPU"):
        open_runtime(Encoding(find()), device="cuda", cache=tmp_path)


def test_scoring_on_the_cpu_imports_neither_torch_nor_transformers(engine: Engine) -> None:
    code = (
        "import sys; import services.score.worker; from services.score.engine import open_engine\n"
        f"from pathlib import Path; engine = open_engine(Path({str(artifact.bundled())!r}), device='cpu')\n"
        "print(engine.score(['Profit rose'])[0].label,"
        " {'torch', 'transformers', 'captum', 'scipy', 'onnx'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{engine.score(['Profit rose'])[0].label} set()\n"  # type: ignore[union-attr]
