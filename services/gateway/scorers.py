"""Scoring now: requests forwarded to a live score worker, so that one engine batches the stream and the people."""

from __future__ import annotations

import itertools
from typing import Final

import httpx
import msgspec

from services.gateway import queries
from services.gateway.pool import Pool
from services.gateway.problems import TYPE_PREFIX, Problem, ProblemBody, unavailable
from services.gateway.recent import Recent

TIMEOUT: Final = httpx.Timeout(30.0, connect=1.0)


class Score(msgspec.Struct, frozen=True):
    """One text's score; `probabilities` are negative, neutral, positive."""

    label: str
    probabilities: tuple[float, float, float]
    truncated: bool


class Scores(msgspec.Struct, frozen=True):
    """In the order of the texts that were sent; all by one model."""

    model: str
    epoch: int
    scores: list[Score]


class Scorers:
    """Finds live workers and asks them in turn."""

    def __init__(self, pool: Pool) -> None:
        self._client = httpx.AsyncClient(timeout=TIMEOUT, trust_env=False)
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
        addresses = await self.alive()
        turn = next(self._turn)
        for index in range(len(addresses)):
            address = addresses[(turn + index) % len(addresses)]
            try:
                answer = await self._client.post(f"{address}/score", json={"texts": texts})
            except httpx.TransportError:
                continue
            if answer.status_code in (429, 503):
                continue
            return _scores(answer, len(texts))
        raise unavailable("no score worker answers now; texts sent to /v1/texts are kept until one does")

    async def close(self) -> None:
        """Free the connections."""
        await self._client.aclose()


def _scores(answer: httpx.Response, expected: int) -> Scores:
    if answer.status_code in (400, 422):
        raise _refusal(answer)
    try:
        scores = msgspec.json.decode(answer.content, type=Scores)
    except (msgspec.DecodeError, UnicodeDecodeError):
        scores = None
    if not answer.is_success or scores is None or len(scores.scores) != expected:
        raise Problem(502, "score-worker-failed", f"the score worker answered {answer.status_code} and no scores")
    return scores


def _refusal(answer: httpx.Response) -> Problem:
    """The worker's own problem, which names the text and the reason."""
    try:
        body = msgspec.json.decode(answer.content, type=ProblemBody)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Problem(422, "not-scored", "the score worker refuses these texts")
    return Problem(422, body.type.removeprefix(TYPE_PREFIX), body.detail, errors=body.errors)
