"""Scoring, explaining and encoding now: requests forwarded to a live score worker, so that one engine batches the
stream and the people."""

from __future__ import annotations

import itertools
from typing import Any, Final, TypeVar

import httpx
import msgspec

from services.gateway import queries
from services.gateway.pool import Pool
from services.gateway.problems import TYPE_PREFIX, Problem, ProblemBody, unavailable
from services.gateway.recent import Recent
from services.score.wire import Explanation, Features, Scores
from services.stream.events import Label

TIMEOUT: Final = httpx.Timeout(30.0, connect=1.0)
EXPLAIN_TIMEOUT: Final = httpx.Timeout(120.0, connect=1.0)
"""Over a larger encoder than the bundled one, a long text takes a CPU a minute."""

_Answer = TypeVar("_Answer")


class Scorers:
    """Finds live workers and asks them in turn."""

    def __init__(self, pool: Pool) -> None:
        self._client = httpx.AsyncClient(trust_env=False)
        self._turn = itertools.count()
        self._alive = Recent(lambda: pool.run(queries.scorers))

    async def alive(self) -> list[str]:
        """Addresses, at most a second old.

        Raises:
            Transient: the database is away.
        """
        return await self._alive.get()

    async def score(self, texts: list[str]) -> Scores:
        """Ask one worker, and the others where it doesn't answer.

        Raises:
            Problem: 503 none is alive or none has a model yet, 422 a text can't be scored, 502 a worker failed.
        """
        answer = await self._ask("score", {"texts": texts}, TIMEOUT)
        if answer is None:
            raise unavailable("no score worker answers now; texts sent to /v1/texts are kept until one does")
        scores = _decoded(answer, Scores)
        if len(scores.scores) != len(texts):
            raise _failed(answer)
        return scores

    async def explain(self, text: str, label: Label | None) -> Explanation:
        """As `score`, of one text; `label` is the one to explain, None the one that the text gets.

        Raises:
            Problem: as `score`; 503 also where all workers explain other texts.
        """
        answer = await self._ask("explain", {"text": text, "label": label}, EXPLAIN_TIMEOUT)
        if answer is None:
            raise unavailable("no score worker is free to explain a text now")
        return _decoded(answer, Explanation)

    async def features(self, texts: list[str]) -> Features:
        """As `score`: what a worker's model sees in texts, at most `wire.MAX_TEXTS` of them.

        Raises:
            Problem: as `score`.
        """
        answer = await self._ask("features", {"texts": texts}, TIMEOUT)
        if answer is None:
            raise unavailable("no score worker answers now")
        found = _decoded(answer, Features)
        if len(found.rows) != 4 * found.width * len(texts):
            raise _failed(answer)
        return found

    async def _ask(self, route: str, body: dict[str, Any], timeout: httpx.Timeout) -> httpx.Response | None:
        """The first answer of a worker that can give one; None where none can now."""
        addresses = await self.alive()
        turn = next(self._turn)
        for index in range(len(addresses)):
            address = addresses[(turn + index) % len(addresses)]
            try:
                answer = await self._client.post(f"{address}/{route}", json=body, timeout=timeout)
            except httpx.TransportError:
                continue
            if answer.status_code not in (429, 503):
                return answer
        return None

    async def close(self) -> None:
        """Free the connections."""
        await self._client.aclose()


def _decoded(answer: httpx.Response, kind: type[_Answer]) -> _Answer:
    if answer.status_code in (400, 422):
        raise _refusal(answer)
    if not answer.is_success:
        raise _failed(answer)
    try:
        return msgspec.json.decode(answer.content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _failed(answer) from None


def _failed(answer: httpx.Response) -> Problem:
    detail = f"the score worker answered {answer.status_code} and nothing of use"
    return Problem(502, "score-worker-failed", detail)


def _refusal(answer: httpx.Response) -> Problem:
    """The worker's own problem, which names the text and the reason."""
    try:
        body = msgspec.json.decode(answer.content, type=ProblemBody)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Problem(422, "not-scored", "the score worker refuses what was sent")
    return Problem(422, body.type.removeprefix(TYPE_PREFIX), body.detail, errors=body.errors)
