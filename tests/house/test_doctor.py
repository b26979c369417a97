"""How the doctor reads what other programs, and the machine, say of themselves."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from services import doctor
from services.doctor import Check
from services.score import device


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ('openjdk version "17.0.13" 2024-10-15\nOpenJDK Runtime Environment', 17),
        ('java version "1.8.0_292"', 8),
        ('openjdk version "21" 2023-09-19', 21),
        ('Picked up JAVA_TOOL_OPTIONS: -Xmx1g\nopenjdk version "11.0.2" 2019-01-15', 11),
        ("The operation couldn't be completed. Unable to locate a Java Runtime.", 0),
    ],
)
def test_java_says_its_version_in_more_than_one_way(said: str, version: int) -> None:
    assert doctor.java_version(said) == version


@pytest.mark.parametrize(("version", "recent"), [("11.0.2", False), ("17.0.1", True)])
def test_a_java_too_old_for_a_broker_is_as_good_as_none(
    version: str, recent: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2019' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert (doctor.recent_java() == str(java)) is recent
    check = next(check for check in doctor.examine() if check.name.startswith("Java"))
    assert check.ok is recent
    assert recent or (version in check.finding and "apt-get install openjdk-17" in check.remedy)


@pytest.mark.parametrize("name", doctor.CHROMIUM)
def test_chromium_goes_by_several_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_text("#!/bin/sh\n")
    (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.chromium() == str(tmp_path / name)


def found(name: str) -> Check:
    return next(check for check in doctor.examine() if check.name == name)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No settings, one core, and neither a driver nor a torch."""
    monkeypatch.setattr(device, "DRIVER", tmp_path / "version")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0}, raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in ("DEVICE", "THREADS"):
        monkeypatch.delenv(f"TICKERLOOP_{name}", raising=False)
    return tmp_path


def give_torch(monkeypatch: pytest.MonkeyPatch, *, gpu: str = "", built_for: str | None = "12.8") -> None:
    """A driver, and a torch that finds the GPU of that name, or none."""
    device.DRIVER.touch()
    cuda = SimpleNamespace(is_available=lambda: bool(gpu), get_device_name=lambda: gpu)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda, version=SimpleNamespace(cuda=built_for)))


@pytest.mark.usefixtures("bare")
def test_without_a_driver_the_cpu_scores_and_torch_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("device") == Check("device", True, "cpu: no NVIDIA driver here; 1 lane")
    monkeypatch.setenv("TICKERLOOP_THREADS", "3")
    assert found("device").finding.endswith("; 3 lanes")


@pytest.mark.usefixtures("bare")
def test_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    give_torch(monkeypatch, gpu="NVIDIA H100")
    assert found("device").finding == "cuda: NVIDIA H100, bf16; 2 lanes"
    monkeypatch.setenv("TICKERLOOP_DEVICE", "cuda")
    assert found("device").finding == "cuda: NVIDIA H100, bf16; 2 lanes"


@pytest.mark.usefixtures("bare")
def test_who_asks_for_the_cpu_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    device.DRIVER.touch()
    monkeypatch.setenv("TICKERLOOP_DEVICE", "cpu")
    assert found("device").finding == "cpu: TICKERLOOP_DEVICE=cpu; 1 lane"


@pytest.mark.parametrize(("built_for", "why"), [("12.8", "finds no GPU"), (None, "is built without CUDA")])
@pytest.mark.usefixtures("bare")
def test_why_torch_leaves_a_driver_unused(monkeypatch: pytest.MonkeyPatch, built_for: str | None, why: str) -> None:
    give_torch(monkeypatch, built_for=built_for)
    assert found("device").finding == f"cpu: an NVIDIA driver is here, but torch {why}; 1 lane"


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("DEVICE", "cuda", "torch finds no GPU; set TICKERLOOP_DEVICE=cpu or auto"),
        ("DEVICE", "tpu", "the device is 'tpu'; it takes auto, cpu or cuda"),
        ("THREADS", "two", "a TICKERLOOP_ variable has a bad value"),
    ],
)
@pytest.mark.usefixtures("bare")
def test_what_no_score_worker_could_start_with_is_needed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, remedy: str
) -> None:
    give_torch(monkeypatch)
    monkeypatch.setenv(f"TICKERLOOP_{name}", value)
    check = found("device")
    assert (check.ok, check.needed) == (False, True) and remedy in check.remedy


@pytest.mark.usefixtures("bare")
def test_a_gpu_without_a_torch_that_loads() -> None:
    device.DRIVER.touch()
    check = found("device")
    assert (check.ok, check.needed, check.remedy) == (False, True, "make setup") and "torch" in check.finding


@pytest.mark.parametrize(
    ("cpuinfo", "ok", "finding"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_vnni\nflags\t\t: fpu", True, "VNNI"),
        ("flags\t\t: avx2 avx_vnni avx512_vnni amx_tile amx_int8", True, "AMX, VNNI"),
        ("flags\t\t: fpu sse4_1 avx2", False, "slower: none of AMX, VNNI, I8MM, dot product"),
        ("processor\t: 0\nFeatures\t: fp asimd asimddp i8mm", True, "I8MM, dot product"),
        ("hart\t: 0", True, "unknown"),
        (None, True, "unknown"),
    ],
)
def test_what_the_cpu_has_for_int8(
    bare: Path, monkeypatch: pytest.MonkeyPatch, cpuinfo: str | None, ok: bool, finding: str
) -> None:
    monkeypatch.setattr(device, "CPUINFO", bare / "cpuinfo")
    if cpuinfo is not None:
        (bare / "cpuinfo").write_text(cpuinfo)
    check = found("int8 on the CPU")
    assert (check.ok, check.finding, check.needed) == (ok, finding, False)
