"""robots.txt (RFC 9309): what a host asks robots to leave alone, and how slowly to come."""

from __future__ import annotations

import time
from typing import Final

import httpx
from protego import Protego

from services.ingest.fetch import AGENT, Fetcher
from services.ingest.guard import Refused, Unreachable

KEPT_S: Final = 24 * 3600.0
"""RFC 9309, 2.4: not to be used for longer than a day."""
MAX_BYTES: Final = 512_000
"""RFC 9309, 2.5: at least 500 KiB must be read; what follows is left."""
MAX_DELAY_S: Final = 3600.0


class Robots:
    """Rules by origin, fetched when first needed. Safe to use from many threads."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._rules: dict[str, tuple[float, Protego]] = {}

    def check(self, url: httpx.URL) -> None:
        """May `url` be fetched?

        Raises:
            Refused: its host asks not to.
            Unreachable: the rules can't be had, which means no (RFC 9309, 2.3.1.4).
        """
        if not self._of(url).can_fetch(str(url), AGENT):
            raise Refused(f"robots.txt of {url.host} disallows {url.path}")

    def delay(self, url: httpx.URL) -> float:
        """Seconds to leave between two requests, by the rules known so far; 0 where nothing is asked."""
        _, rules = self._rules.get(_origin(url), (0.0, None))
        return min(MAX_DELAY_S, float(rules.crawl_delay(AGENT) or 0)) if rules else 0.0

    def _of(self, url: httpx.URL) -> Protego:
        origin = _origin(url)
        expires, rules = self._rules.get(origin, (0.0, None))
        if rules is None or time.monotonic() > expires:
            rules = self._fetched(origin)
            self._rules[origin] = (time.monotonic() + KEPT_S, rules)
        return rules

    def _fetched(self, origin: str) -> Protego:
        answer = self._fetcher.get(f"{origin}/robots.txt", {}, lambda _: None, MAX_BYTES)
        if answer.status >= 500 or answer.status == 429:
            raise Unreachable(f"{origin}/robots.txt answers {answer.status}")
        whole = answer.body if len(answer.body) < MAX_BYTES else answer.body.rpartition(b"\n")[0]
        # No rules (any 4xx) allow everything.
        return Protego.parse(whole.decode("utf-8", "replace") if answer.status == 200 else "")


def _origin(url: httpx.URL) -> str:
    return f"{url.scheme}://{url.netloc.decode()}"
