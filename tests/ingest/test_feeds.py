"""The poller against a real server: what it asks for, how often, and what it publishes through restarts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from feed_host import Host, Reply, Request, host, rss
from ingest_kit import dead_letters, prepared, records, settings, texts

from services.ingest.feeds import Poller, journal_name, serve
from services.ingest.fetch import Limits
from services.ingest.polling import Pace
from services.runtime import Context, with_retries
from services.settings import Settings
from services.stream.errors import Misconfigured
from services.stream.events import RawText, decode
from services.stream.topics import RAW

EAGER = Pace(feed_s=0.3, host_s=0.05, backoff_s=0.2, backoff_last_s=0.5)
QUICK = Limits(connect_s=1, read_s=1, total_s=3, size=100_000)


@pytest.fixture
def server() -> Iterator[Host]:
    with host() as found:
        yield found


@pytest.fixture
def log(database: str) -> str:
    return prepared(database)


def chosen(log: str, folder: Path, *addresses: str, allow_private: bool = True) -> Settings:
    path = folder / "feeds.txt"
    path.write_text("# feeds\n" + "".join(f"{address}  # one\n" for address in addresses))
    return Settings(database=log, feeds=str(path), allow_private=allow_private)


@contextmanager
def polling(settings: Settings, pace: Pace = EAGER) -> Iterator[Context]:
    context = Context(settings, "feeds")

    def poll(context: Context) -> None:
        with closing(context.bus()) as bus:
            Poller(context, bus, pace, QUICK).run()

    thread = threading.Thread(target=with_retries, args=(context, poll))
    thread.start()
    try:
        yield context
    finally:
        context.stop.set()
        thread.join(timeout=30)
        assert not thread.is_alive()


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def conditional(body: bytes, tag: str) -> Callable[[Request], Reply]:
    def reply(request: Request) -> Reply:
        if request.headers.get("If-None-Match") == tag:
            return Reply(status=304)
        return Reply(body, headers={"ETag": tag, "Last-Modified": "Fri, 05 Jan 2024 10:00:00 GMT"})

    return reply


def test_entries_enter_once_and_unchanged_feeds_are_not_sent_again(log: str, server: Host, tmp_path: Path) -> None:
    server.replies["/rss"] = conditional(rss(2, 1), '"one"')
    wanted = chosen(log, tmp_path, server.address + "/rss")
    with polling(wanted) as context:
        until(lambda: len(server.asked("/rss")) >= 3)
        assert texts(log) == ["Text 1", "Text 2"] or len(texts(log)) == 2
        assert server.requests[1].headers["User-Agent"].startswith("tickerloop/")
        assert server.asked("/rss")[1].headers["If-None-Match"] == '"one"'
        assert server.asked("/rss")[1].headers["If-Modified-Since"] == "Fri, 05 Jan 2024 10:00:00 GMT"
        server.replies["/rss"] = conditional(rss(3, 2, 1), '"two"')
        until(lambda: len(texts(log)) == 3)
        until(lambda: context.detail["texts"] == 3)
    assert len(server.asked("/robots.txt")) == 1
    found = {decode(RawText, record.value).id: decode(RawText, record.value) for record in records(log)}
    assert found["guid-1"] == RawText(
        text="Text 1",
        source="127.0.0.1",
        id="guid-1",
        title="Title 1",
        url="http://example.com/1",
        published="2024-01-05T09:00:00+00:00",
    )


def test_a_restart_neither_fetches_nor_publishes_again(log: str, server: Host, tmp_path: Path) -> None:
    server.replies["/rss"] = conditional(rss(1, 2), '"one"')
    wanted = chosen(log, tmp_path, server.address + "/rss")
    slow = EAGER._replace(feed_s=600)
    with polling(wanted, slow):
        until(lambda: len(texts(log)) == 2)
    with polling(wanted, slow):
        time.sleep(1)
    assert len(server.asked("/rss")) == 1
    server.replies["/rss"] = Reply(rss(3, 1, 2))
    with (
        closing(settings(log).open_bus("test")) as bus,
        closing(bus.journal(journal_name(server.address + "/rss"), RAW)) as j,
    ):
        mark = j.mark
        j.publish([], mark.replace('"due":', '"due":1,"was":'))
    with polling(wanted, slow):
        until(lambda: len(texts(log)) == 3)
    assert sorted(texts(log)) == ["Text 1", "Text 2", "Text 3"]


def test_two_pollers_do_not_publish_twice(log: str, server: Host, tmp_path: Path) -> None:
    both_are_here = threading.Barrier(2)

    def reply(_: Request) -> Reply:
        if len(server.asked("/rss")) <= 2:
            both_are_here.wait(timeout=20)
        return Reply(rss(*range(20)))

    server.replies["/rss"] = reply
    wanted = chosen(log, tmp_path, server.address + "/rss")
    with polling(wanted), polling(wanted):
        until(lambda: len(server.asked("/rss")) >= 6)
    assert sorted(texts(log)) == sorted(f"Text {n}" for n in range(20))


def test_robots_and_private_addresses_are_respected(log: str, server: Host, tmp_path: Path) -> None:
    server.replies["/robots.txt"] = Reply(b"User-agent: *\nDisallow: /no\n")
    server.replies["/no/rss"] = Reply(rss(1))
    with polling(chosen(log, tmp_path, server.address + "/no/rss")) as context:
        until(lambda: bool(context.detail) and context.detail["failing"] == 1)
    assert server.asked("/no/rss") == []
    before = len(server.requests)
    with polling(chosen(log, tmp_path, server.address + "/rss", allow_private=False)) as context:
        until(lambda: bool(context.detail) and context.detail["failing"] == 1)
    assert len(server.requests) == before
    assert texts(log) == []


def test_a_host_is_visited_at_its_pace(log: str, server: Host, tmp_path: Path) -> None:
    server.replies["/robots.txt"] = Reply(b"User-agent: *\nCrawl-delay: 1\n")
    for name in ("/a", "/b", "/c"):
        server.replies[name] = Reply(rss(name))
    with polling(chosen(log, tmp_path, *(server.address + name for name in ("/a", "/b", "/c")))):
        until(lambda: len(texts(log)) == 3)
    times = [request.at for request in server.requests if request.path != "/robots.txt"]
    assert all(later - earlier >= 1.0 for earlier, later in pairwise(times))


def test_retry_after_is_waited_for(log: str, server: Host, tmp_path: Path) -> None:
    server.replies["/rss"] = Reply(status=429, headers={"Retry-After": "2"})
    with polling(chosen(log, tmp_path, server.address + "/rss")):
        until(lambda: len(server.asked("/rss")) == 1)
        server.replies["/rss"] = Reply(rss(1))
        until(lambda: len(texts(log)) == 1)
    first, second = server.asked("/rss")[:2]
    assert second.at - first.at >= 2


def test_a_broken_feed_backs_off_and_the_others_go_on(log: str, server: Host, tmp_path: Path) -> None:
    server.replies["/broken"] = Reply(b"<html>not a feed</html>")
    server.replies["/large"] = Reply(b"x" * 200_000)
    server.replies["/gone"] = Reply(status=410)
    server.replies["/good"] = Reply(rss(1))
    pace = EAGER._replace(backoff_s=1.0, backoff_last_s=100)
    names = ("/broken", "/large", "/gone", "/good")
    with polling(chosen(log, tmp_path, *(server.address + name for name in names)), pace) as context:
        until(lambda: len(server.asked("/good")) >= 8, 40)
        assert context.detail["failing"] == 2
        assert context.detail["gone"] == 1
    assert len(server.asked("/gone")) == 1
    assert 1 <= len(server.asked("/broken")) < len(server.asked("/good"))
    server.replies["/gone"] = Reply(rss(2))
    with polling(chosen(log, tmp_path, server.address + "/gone")):
        time.sleep(1)
    assert len(server.asked("/gone")) == 1, "a restart doesn't ask again either"


def test_the_list_is_read_again_and_bad_lines_are_passed_over(log: str, server: Host, tmp_path: Path) -> None:
    server.replies["/a"] = Reply(rss("a"))
    server.replies["/b"] = Reply(rss("b"))
    wanted = chosen(log, tmp_path, server.address + "/a", "ftp://example.com/", "nonsense")
    with polling(wanted) as context:
        until(lambda: texts(log) == ["Text a"])
        assert context.detail["feeds"] == 1
        chosen(log, tmp_path, server.address + "/b")
        until(lambda: len(texts(log)) == 2)
        asked = len(server.asked("/a"))
        time.sleep(1)
        assert len(server.asked("/a")) <= asked + 1


def test_an_entry_too_large_is_a_dead_letter_once(log: str, server: Host, tmp_path: Path) -> None:
    body = rss(1, 2).replace(b"Text 2", b"x" * 250_000)
    server.replies["/rss"] = Reply(body)
    wanted = chosen(log, tmp_path, server.address + "/rss")
    context = Context(wanted, "feeds")
    with closing(context.bus()) as bus:
        poller = Poller(context, bus, EAGER, QUICK._replace(size=1_000_000))
        thread = threading.Thread(target=poller.run)
        thread.start()
        until(lambda: len(server.asked("/rss")) >= 3)
        context.stop.set()
        thread.join()
    assert texts(log) == ["Text 1"]
    assert [(reason, origin) for reason, origin, _ in dead_letters(log)] == [("oversize", server.address + "/rss")]


def test_without_a_list_it_says_what_to_set(log: str, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="TICKERLOOP_FEEDS"):
        serve(Context(Settings(database=log), "feeds"))
    with pytest.raises(Misconfigured, match="can't be read"):
        serve(Context(Settings(database=log, feeds=str(tmp_path / "none")), "feeds"))
