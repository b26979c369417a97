"""Loading a model beside the one that serves, for whatever thread waits for it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from services.score.engine import Engine
from services.stream.errors import TickerloopError, Transient
from services.stream.loop import Backoff

log = logging.getLogger(__name__)


class Refused(NamedTuple):
    """Why a model can't be served here."""

    reason: str


def loaded(
    load: Callable[[str], Engine], version: str, wanted: Callable[[], bool], backoff: Backoff
) -> Engine | Refused | None:
    """The engine, or why there can't be one; while a server is away it is tried again. None once it isn't `wanted`."""
    while wanted():
        try:
            return load(version)
        except Transient as error:
            log.warning("loading model %s: %s; trying again", version, error)
            backoff.wait()
        except Exception as error:  # whatever a broken model raises is a reason to refuse it
            log.error("model %s can't be served: %s", version, error, exc_info=not isinstance(error, TickerloopError))
            return Refused(str(error) or type(error).__name__)
    return None
