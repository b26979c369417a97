"""Scoring and explaining now: requests forwarded to a live score worker, so that one engine batches the stream and the
people."""

from __future__ import annotations

import itertools
from typing import Any, Final, TypeVar

import httpx
import msgspec

from services.gateway import queries
from services.gateway.pool import Pool
from services.gateway.problems import TYPE_PREFIX, Problem, ProblemBody, unavailable
from services.gateway.recent import Recent
from services.stream.events import Label

TIMEOUT: Final = httpx.Timeout(30.0, connect=1.0)
EXPLAIN_TIMEOUT: Final = httpx.Timeout(120.0, connect=1.0)
"""Over a larger encoder than the bundled one, a long text takes a CPU a minute."""

_Answer = TypeVar("_Answer")


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


class Token(msgspec.Struct, frozen=True):
    """A word, number or mark of a text, as the model's tokenizer divides it.

    `text` is the sent text from `start` to `end`, in characters (Unicode code points). `attribution` is what it adds
    to the log-odds of the explained label.
    """

    text: str
    start: int
    end: int
    attribution: float


class Explanation(msgspec.Struct, frozen=True):
    """Why a text gets a label, by integrated gradients (Sundararajan, Taly, Yan 2017).

    `label`, `probabilities` and `truncated` are those of /v1/score. `explained` is the label that the rest is about:
    `value` is its log-odds, ln(p / (1 − p)), and `baseline` the same with a mask in the place of every token. The
    attributions sum to value − baseline + gap; `gap` is the method's own error, `relative_gap` is its share of
    value − baseline, null where that is 0. Gradients need the model in fp32; where `fp32_label` is not `label`, the
    served model's rounding decided.
    """

    model: str
    epoch: int
    label: Label
    probabilities: tuple[float, float, float]
    truncated: bool
    fp32_label: Label
    explained: Label
    tokens: list[Token]
    value: float
    baseline: float
    gap: float
    relative_gap: float | None


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
