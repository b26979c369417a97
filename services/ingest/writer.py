"""Publishing through lost servers, with a journal, whose mark tells what became of an unanswered commit, or without."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, stop_any, wait_random_exponential
from tenacity.nap import sleep_using_event
from tenacity.stop import stop_when_event_set

from services.stream.bus import Bus, Journal, Outgoing
from services.stream.errors import Fenced, Transient
from services.stream.topics import RAW

PATIENCE_S: Final = 300.0
"""How long servers may be away before the command gives up."""


def retrying(stop: threading.Event, say: Callable[[str], None]) -> Retrying:
    """Tries again with backoff and jitter on transient errors until `stop` or `PATIENCE_S`, then raises the last."""

    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if state.attempt_number in (1, 5) or state.attempt_number % 20 == 0:
            say(f"{str(error).splitlines()[0]}; trying again")

    return Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, Transient) and not isinstance(error, Fenced)),
        wait=wait_random_exponential(multiplier=0.1, max=5),
        stop=stop_any(stop_after_delay(PATIENCE_S), stop_when_event_set(stop)),
        sleep=sleep_using_event(stop),
        before_sleep=tell,
        reraise=True,
    )


class Writer:
    """Publishes without a place of its own: what an interrupted run published may be published again."""

    def __init__(self, bus: Bus, retry: Retrying) -> None:
        self._bus, self._retry = bus, retry

    def write(self, events: Sequence[Outgoing]) -> None:
        """Publish, once at least.

        Raises:
            Transient: the servers stayed away.
        """
        if events:
            self._retry(self._bus.publish, events)


class JournalWriter:
    """Publishes exactly once, with the journal's mark.

    Raises:
        Transient: the servers stayed away.
    """

    def __init__(self, bus: Bus, name: str, retry: Retrying) -> None:
        self._bus, self._name, self._retry = bus, name, retry
        self._journal: Journal | None = self._retry(self._bus.journal, name, RAW)
        self.mark = self._journal.mark
        """The mark of the last commit."""

    def write(self, events: Sequence[Outgoing], mark: str) -> None:
        """Publish and move the mark, which must differ from the one before.

        Raises:
            Fenced: another process opened the journal later.
            Transient: the servers stayed away.
        """
        self._retry(self._write, events, mark)
        self.mark = mark

    def _write(self, events: Sequence[Outgoing], mark: str) -> None:
        if self._journal is None:
            self._journal = self._bus.journal(self._name, RAW)
            if self._journal.mark == mark:
                return  # the commit that wasn't answered did happen
            if self._journal.mark != self.mark:
                raise Fenced(f"{self._name}: another process moved it on")
        try:
            self._journal.publish(events, mark)
        except Fenced:
            raise
        except Transient:
            self.close()
            raise

    def close(self) -> None:
        """Free the journal."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
