"""`tickerloop up` on the embedded bus: what it says, what it restarts, how it ends, and that nothing is lost by it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from system.account import ORDER, SCORED, accounted, in_order
from system.loop import COMMAND, TickerLoop, eventually, free_port
from system.texts import Story, write

pytestmark = pytest.mark.system

COUNT = 3_000
RATE = "500"


@pytest.fixture(scope="module")
def loop(shared_folder: Path) -> Iterator[TickerLoop]:
    with TickerLoop(shared_folder) as running:
        yield running


def minute() -> int:
    return (int(time.time()) // 60 - 10) * 60_000


def taken(loop: TickerLoop) -> int:
    return int(loop.rows("SELECT coalesce(sum(n), 0) FROM tally WHERE topic = 'texts.raw'")[0][0])


def pids(loop: TickerLoop) -> dict[str, int]:
    return dict(loop.rows("SELECT name, pid FROM service"))


def check(loop: TickerLoop, stories: dict[str, Story], before: dict[str, Any] | None = None) -> None:
    accounted(loop.status(), (i for (i,) in loop.rows(SCORED)), stories, before)
    in_order(loop.rows(ORDER))


def test_a_second_up_on_the_same_data_says_so_and_leaves_the_first_alone(loop: TickerLoop) -> None:
    before = pids(loop)
    done = loop.call("up", "--data", str(loop.data), "--port", str(free_port()))
    assert done.returncode == 3
    assert f"already up on {loop.data} (process {loop.process.pid})" in " ".join(done.stderr.split())
    assert loop.process.poll() is None
    assert before.items() <= pids(loop).items()


def test_a_port_that_is_taken_is_said_before_anything_starts(loop: TickerLoop, tmp_path: Path) -> None:
    done = loop.call("up", "--data", str(tmp_path / "other"), "--port", str(loop.port))
    assert done.returncode == 3
    assert f"can't listen on 127.0.0.1:{loop.port}" in done.stderr and "--port" in done.stderr
    assert not (tmp_path / "other" / "run.json").exists()


def test_a_killed_service_is_restarted_and_the_log_says_so(loop: TickerLoop) -> None:
    before = pids(loop)["store"]
    os.kill(before, signal.SIGKILL)
    loop.wait_for_log("store ended with -9; again in 0.2 s")
    after = eventually(lambda: (pid := pids(loop)["store"]) != before and pid, 20, "the store did not come back")
    assert psutil.pid_exists(after)
    loop.post("/v1/texts", {"text": "Boeing delays a delivery after the audit", "source": "restart"})
    loop.run("status", "--wait")
    assert loop.rows("SELECT count(*) FROM prediction WHERE source = 'restart'") == [(1,)]


def test_killed_servers_are_started_again_and_nothing_is_lost(loop: TickerLoop, tmp_path: Path) -> None:
    stories = write(tmp_path / "texts.jsonl", COUNT, 21, minute())
    before, services = loop.status(), pids(loop)
    said = len(loop.said())
    feeding = loop.start("ingest", str(tmp_path / "texts.jsonl"), "--id-field", "id", "--rate", RATE)
    for share, name in ((0.2, "postgres"), (0.4, "valkey-server"), (0.6, "postgres")):
        start = before["account"]["taken"]
        eventually(lambda goal=start + COUNT * share: taken(loop) >= goal, 60, f"no progress to {share:.0%}")
        old = loop.server(name)
        old.kill()
        eventually(lambda old=old: not old.is_running(), 5, "it did not die")
        new = eventually(lambda name=name, old=old: _new(loop, name, old), 30, f"{name} was not started again")
        assert new.pid != old.pid
        eventually(lambda: loop.call("status").returncode == 0, 30, "it did not answer again")
    assert feeding.wait(120) == 0
    loop.run("status", "--wait")
    check(loop, stories, before)
    news = loop.said()[said:]
    assert news.count("postgres ended with -9; starting it again") == 2
    assert news.count("valkey ended with -9; starting it again") == 1
    assert pids(loop) == services, "services wait for their servers; none has to be restarted"


def _new(loop: TickerLoop, name: str, old: psutil.Process) -> psutil.Process | None:
    found = [c for c in psutil.Process(loop.process.pid).children() if c.name() == name and c.pid != old.pid]
    return found[0] if found else None


def test_a_first_start_that_is_cut_short_leaves_nothing_in_the_way(folder: Path) -> None:
    data = folder / "data"
    for end in (lambda pid: os.killpg(pid, signal.SIGKILL), lambda pid: os.kill(pid, signal.SIGINT)):
        before = set(data.glob("postgres*/PG_VERSION"))
        loop = TickerLoop(data)
        while set(data.glob("postgres*/PG_VERSION")) <= before and loop.process.poll() is None:  # initdb hasn't begun
            time.sleep(0.001)
        end(loop.process.pid)
        assert loop.process.wait(10) != 0
        assert "checking the database" not in loop.said(), "it was cut too late"
        eventually(lambda group=loop.process.pid: not _in_group(group), 10, "something still runs")
    with TickerLoop(data) as loop:
        assert loop.run("health", "store") == "running\n"


def _in_group(group: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group:
                found.append(process)
    return found


def test_up_listens_where_it_is_told_and_says_so(folder: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    settings = {"TICKERLOOP_METRICS_PORT": str(free_port())}  # each service on its own would take this one
    with TickerLoop(folder / "data", settings=settings, options=("--host", "::1", "--port", "0")) as loop:
        loop.wait_for_log("tickerloop is up:")
        (url,) = re.findall(r"tickerloop is up: (http://\[::1\]:\d+) ", loop.said())
        assert not url.endswith(":0")
        answer = httpx.post(f"{url}/v1/score", json={"texts": ["Profit doubles"]}, timeout=30)
        assert answer.status_code == 200, answer.text
        assert "tickerloop_swaps_total" in httpx.get(f"{url}/metrics").text, "a scorer's"
        ((scorer,),) = loop.rows("SELECT address FROM service WHERE name = 'score'")
        assert scorer.startswith("http://127.0.0.1:"), "only the gateway meets the world"
        assert "ended with" not in loop.said(), loop.said()


def test_up_serves_others_once_there_is_a_key(folder: Path) -> None:
    data = folder / "data"
    command = [*COMMAND, "up", "--data", str(data), "--host", "0.0.0.0", "--port", "0"]  # noqa: S104
    refused = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert refused.returncode == 3 and "tickerloop keys create" in refused.stderr, refused.stderr
    with TickerLoop(data) as loop:
        assert httpx.get(f"{loop.url}/v1/models").status_code == 200
        key = loop.run("keys", "create", "ana", "--role", "reader").strip()
    with TickerLoop(data, options=("--host", "0.0.0.0")) as loop:  # noqa: S104
        assert httpx.get(f"{loop.url}/v1/models").status_code == 401
        assert httpx.get(f"{loop.url}/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
        assert key.split("_")[2] not in "".join(log.read_text() for log in (data / "log").glob("*.log"))


def test_ctrl_c_drains_and_leaves_nothing_behind_and_a_new_start_goes_on(folder: Path) -> None:
    stories = write(folder / "texts.jsonl", COUNT, 22, minute())
    arguments = ("ingest", str(folder / "texts.jsonl"), "--id-field", "id")
    data = folder / "data"
    with TickerLoop(data) as first:
        feeding = first.start(*arguments, "--rate", RATE)
        eventually(lambda: taken(first) >= COUNT / 4, 60, "no progress")
        children = first.children()
        assert len(children) >= 9
        os.killpg(first.process.pid, signal.SIGINT)  # as a terminal does
        assert first.process.wait(45) == 0
        assert "stopping; services finish what they hold" in first.said()
        assert [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE] == []
        assert not (data / "run.json").exists()
        done = first.call("status")
        assert done.returncode == 3 and "nothing is up" in done.stderr
        feeding.kill()
        feeding.wait()
    with TickerLoop(data) as second:
        assert 0 < taken(second) < COUNT
        second.run(*arguments)
        children = second.children()
        second.process.kill()  # the worst end: what it started must not outlive it
        second.process.wait()
        _, alive = psutil.wait_procs(children, 30)
        assert alive == []
        assert "nothing is up" in second.call("status").stderr
    with TickerLoop(data) as third:
        third.run("status", "--wait")
        check(third, stories)
