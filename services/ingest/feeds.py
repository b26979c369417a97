"""The service that polls RSS and Atom feeds into `texts.raw`.

`TICKERLOOP_FEEDS` names a file with one address per line (# begins a comment), read again when it changes. What is
known of a feed (validators, entries, when to come again) moves in the transaction that publishes its entries, so a
restart neither fetches nor publishes anything again. Visits run in threads, one at a time per host; this thread alone
touches the bus. A feed that fails is left alone for longer and longer, the others go on.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from services.ingest.envelope import Problem, outgoing
from services.ingest.fetch import Fetcher, Limits, parsed
from services.ingest.guard import Refused
from services.ingest.polling import FeedMark, Outcome, Pace, failed, visit
from services.ingest.robots import Robots
from services.runtime import Context, now_ms
from services.stream.bus import Bus
from services.stream.errors import Misconfigured
from services.stream.events import RawText, derived_id
from services.stream.topics import RAW

MAX_VISITS: Final = 8
"""Visits at the same time."""
TICK_S: Final = 0.2
ORDINARY_PACE: Final = Pace()
ORDINARY_LIMITS: Final = Limits()

log = logging.getLogger(__name__)


def serve(context: Context) -> None:
    """Poll until stopped.

    Raises:
        Misconfigured: no file is named, or it can't be read at the start.
        Transient: a server is away; what was fetched meanwhile is fetched again.
    """
    if not context.settings.feeds:
        raise Misconfigured("no feeds are named: set TICKERLOOP_FEEDS to a file with one RSS or Atom address per line")
    with closing(context.bus()) as bus:
        Poller(context, bus, ORDINARY_PACE, ORDINARY_LIMITS).run()


class FeedList:
    """The addresses in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self.addresses: list[str] = []

    def refresh(self) -> bool:
        """Read the file if it changed; whether it did. A line that is no address is logged and passed over.

        Raises:
            OSError: it can't be read.
            UnicodeDecodeError: it isn't text.
        """
        stat = self._path.stat()
        stamp = (stat.st_mtime_ns, stat.st_size)
        if stamp == self._stamp:
            return False
        lines = self._path.read_text("utf-8-sig").splitlines()
        self._stamp = stamp
        self.addresses = list(dict.fromkeys(address for line in lines if (address := _address(line))))
        return True


def _address(line: str) -> str:
    words = line.split()
    if not words or words[0].startswith("#"):
        return ""
    try:
        parsed(words[0])
    except Refused as error:
        log.warning("feeds: passed over: %s", error)
        return ""
    return words[0]


class Poller:
    """Decides whom to visit, and publishes what visits bring."""

    def __init__(self, context: Context, bus: Bus, pace: Pace, limits: Limits) -> None:
        self._context, self._bus, self._pace = context, bus, pace
        self._list = FeedList(Path(context.settings.feeds))
        self._fetcher = Fetcher(context.settings.allow_private, limits)
        self._robots = Robots(self._fetcher)
        self._marks: dict[str, FeedMark] = {}
        self._visited: set[str] = set()
        """Hosts that are being visited."""
        self._free_at: dict[str, float] = {}
        """When a host may be visited again, by the monotonic clock."""
        self._outcomes: queue.SimpleQueue[tuple[str, FeedMark, Outcome]] = queue.SimpleQueue()
        self._texts = 0

    def run(self) -> None:
        """Poll until stopped. See `serve`."""
        self._refresh(first=True)
        while not self._context.stop.is_set():
            self._refresh(first=False)
            self._send_out()
            try:
                address, before, outcome = self._outcomes.get(timeout=TICK_S)
            except queue.Empty:
                continue
            self._came_back(address, before, outcome)

    def _refresh(self, *, first: bool) -> None:
        try:
            changed = self._list.refresh()
        except (OSError, UnicodeDecodeError) as error:
            if first:
                raise Misconfigured(f"TICKERLOOP_FEEDS: the list can't be read: {error}") from None
            return  # an editor may be replacing it; the list read before holds
        if changed:
            log.info("feeds: %d addresses in %s", len(self._list.addresses), self._context.settings.feeds)
            self._marks = {a: self._marks[a] if a in self._marks else self._load(a) for a in self._list.addresses}
            self._tell()

    def _load(self, address: str) -> FeedMark:
        with closing(self._bus.journal(journal_name(address), RAW)) as journal:
            return _decoded(journal.mark)

    def _send_out(self) -> None:
        now, clock = now_ms(), time.monotonic()
        for address, mark in sorted(self._marks.items(), key=lambda pair: pair[1].due):
            if mark.due > now or len(self._visited) >= MAX_VISITS:
                return
            host = parsed(address).host
            if mark.gone or host in self._visited or self._free_at.get(host, 0.0) > clock:
                continue
            self._visited.add(host)
            threading.Thread(target=self._visit, args=(address, mark), name=f"visit {host}", daemon=True).start()

    def _visit(self, address: str, mark: FeedMark) -> None:
        try:
            outcome = visit(address, mark, self._fetcher, self._robots, self._pace, now_ms())
        except Exception as error:  # a defect of ours that one feed brings out must not silence the others
            log.exception("feeds: %s", address)
            outcome = failed(mark, error, self._pace, self._pace.host_s, now_ms())
        self._outcomes.put((address, mark, outcome))

    def _came_back(self, address: str, before: FeedMark, outcome: Outcome) -> None:
        host = parsed(address).host
        self._visited.discard(host)
        self._free_at[host] = time.monotonic() + outcome.host_s
        if outcome.note:
            log.log(logging.INFO if outcome.mark.gone else logging.WARNING, "feeds: %s: %s", address, outcome.note)
        if address in self._marks:
            self._marks[address] = self._published(address, before, outcome)
            self._tell()

    def _published(self, address: str, before: FeedMark, outcome: Outcome) -> FeedMark:
        """Publish; the mark that holds now. Nothing is published where another poller moved the mark meanwhile."""
        items: list[RawText | Problem] = [*outcome.texts, *outcome.problems]
        events = [outgoing(item, address) for item in items]
        with closing(self._bus.journal(journal_name(address), RAW)) as journal:
            stored = _decoded(journal.mark)
            if stored != before:
                return stored
            journal.publish(events, outcome.mark.encoded())
        self._texts += len(outcome.texts)
        if outcome.texts:
            log.info("feeds: %s: %d new", address, len(outcome.texts))
        return outcome.mark

    def _tell(self) -> None:
        marks = self._marks.values()
        self._context.state = "running"
        self._context.detail = {
            "feeds": len(marks),
            "failing": sum(mark.failures > 0 for mark in marks),
            "gone": sum(mark.gone for mark in marks),
            "texts": self._texts,
        }


def _decoded(mark: str) -> FeedMark:
    return msgspec.json.decode(mark, type=FeedMark) if mark else FeedMark()


def journal_name(address: str) -> str:
    """A feed's journal."""
    return "feed." + derived_id("feed", address)
