"""One answer for all who ask within a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

FRESH_S: Final = 1.0
"""Services beat once a second; asking more often tells nothing new."""

T = TypeVar("T")


class Recent(Generic[T]):
    """Asks again when the last answer is a second old; whoever comes meanwhile waits for the same one."""

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self._ask = ask
        self._lock = asyncio.Lock()
        self._answer: tuple[float, T] | None = None

    async def get(self) -> T:
        """The answer; raises what asking raises."""
        async with self._lock:
            if self._answer is None or time.monotonic() - self._answer[0] >= FRESH_S:
                answer = await self._ask()
                self._answer = time.monotonic(), answer
            return self._answer[1]
