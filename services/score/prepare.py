"""The model that may come next: loaded and proved in a thread of its own, while the stream goes on with the old one."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec

from services.score.engine import Engine
from services.score.loading import Refused, loaded
from services.stream.loop import Backoff
from services.trainer.promotion import Answer


class _Job:
    """One preparation; its thread alone writes to it until the answer is there."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.engine: Engine | None = None


class Preparer:
    """Keeps one engine at most: whatever is asked for next takes its place, so what is never promoted doesn't stay."""

    def __init__(self, load: Callable[[str], Engine], stop: threading.Event) -> None:
        self._load, self._stop = load, stop
        self._turn = threading.Lock()
        self._job: _Job | None = None

    @property
    def answer(self) -> Answer | None:
        """To the last that was asked for."""
        return self._job.answer if self._job else None

    def ask(self, version: str, offset: int) -> None:
        """Begin to load `version`, which the record at `offset` of `preparations` asks for."""
        self._job = _Job(Answer(offset, version))
        threading.Thread(target=self._run, args=(self._job,), name="prepare", daemon=True).start()

    def loads(self, version: str) -> bool:
        """Whether `version` is being loaded now."""
        return self.answer is not None and (self.answer.model, self.answer.answer) == (version, "preparing")

    def take(self, version: str) -> Engine | None:
        """Give away the engine that is ready for `version`, if there is one."""
        job = self._job
        if job is None or job.answer.model != version:
            return None
        engine, job.engine = job.engine, None
        return engine

    def _run(self, job: _Job) -> None:
        with self._turn:  # two at once would take twice the memory
            found = loaded(
                self._load,
                job.answer.model,
                lambda: self._job is job and not self._stop.is_set(),
                Backoff(self._stop),
            )
            if isinstance(found, Refused):
                job.answer = msgspec.structs.replace(job.answer, answer="refused", reason=found.reason)
            elif found is not None:
                job.engine = found
                job.answer = msgspec.structs.replace(job.answer, answer="ready")
