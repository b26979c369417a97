"""What one visit to a feed makes of what a host answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from feed_host import Host, Reply, host, rss

from services.ingest.fetch import Fetcher, Limits
from services.ingest.polling import MAX_SEEN, MAX_TAG_CHARS, FeedMark, Outcome, Pace, visit
from services.ingest.robots import Robots

MARK_BYTES = 4_096
"""What Kafka keeps of a mark."""


@pytest.fixture
def server() -> Iterator[Host]:
    with host() as found:
        yield found


def visited(server: Host, mark: FeedMark) -> Outcome:
    fetcher = Fetcher(True, Limits())
    return visit(server.address + "/rss", mark, fetcher, Robots(fetcher), Pace(), 1_760_000_000_000)


def test_a_long_feed_is_known_and_its_mark_fits(server: Host) -> None:
    odd = '"' * MAX_TAG_CHARS
    server.replies["/rss"] = Reply(rss(*range(MAX_SEEN)), headers={"ETag": odd, "Last-Modified": odd})
    first = visited(server, FeedMark(gone=True, failures=9))
    assert len(first.texts) == MAX_SEEN == 590
    assert len(first.mark.encoded()) <= MARK_BYTES
    assert visited(server, first.mark).texts == []
    server.replies["/rss"] = Reply(rss("new", *range(MAX_SEEN - 1)))
    assert [text.text for text in visited(server, first.mark).texts] == ["Text new"]


@pytest.mark.parametrize(
    "value", ["Mon, 01 Jan 2024 00:00:00 +99999999999999999999", "Mon, 99999999999 Jan 2024 00:00:00 GMT", "soon"]
)
def test_an_absurd_retry_after_is_no_failure(server: Host, value: str) -> None:
    server.replies["/rss"] = Reply(rss(1), headers={"Retry-After": value})
    outcome = visited(server, FeedMark())
    assert (outcome.note, len(outcome.texts)) == ("", 1)
