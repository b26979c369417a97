"""Score and explain now, over HTTP, and tell a text's features: the one call between services. The gateway forwards
requests here, so that one engine in one process serves the stream and the people, the people first. Errors are RFC 9457
problems, which the gateway hands on as they are.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

import uvicorn
from litestar import Litestar, Request, post
from litestar.datastructures import State
from litestar.params import JSONBody

from services.gateway.gone import unless_gone
from services.gateway.problems import HANDLERS, FieldError, Problem, unavailable
from services.runtime import address, listen
from services.score.engine import Engine, Scored
from services.score.explain import Explainer
from services.score.lanes import Priority
from services.score.tokens import Word
from services.score.wire import (
    ExplainRequest,
    Explanation,
    Features,
    FeaturesRequest,
    Score,
    ScoreRequest,
    Scores,
    Token,
)
from services.stream.errors import Misconfigured, Rejected, Transient

START_S: Final = 10.0
TURN_S: Final = 5.0
"""How long an explanation waits for those before it; then another worker may be free."""


class InService(Protocol):
    """What is in service, as `Worker.current` gives it."""

    @property
    def engine(self) -> Engine:
        """The engine."""

    @property
    def version(self) -> str:
        """The model's version."""

    @property
    def epoch(self) -> int:
        """Its epoch."""


class Holder(Protocol):
    """Whoever knows what is in service now."""

    @property
    def current(self) -> InService:
        """The model in service."""


class ScoreServer:
    """An HTTP server in a thread of its own; `address` is where it listens."""

    def __init__(self, holder: Holder, host: str, port: int) -> None:
        @post("/score", status_code=200)
        async def score(data: JSONBody[ScoreRequest], request: Request[None, None, State]) -> Scores:
            current = _current(holder)
            answers = await unless_gone(request.receive, _answers(current.engine, data.texts))
            return Scores(current.version, current.epoch, [_score(*answer) for answer in enumerate(answers)])

        @post("/features", status_code=200)
        async def features(data: JSONBody[FeaturesRequest]) -> Features:
            return await asyncio.to_thread(_features, _current(holder), data.texts)

        explainer, turn = Explainer(), asyncio.Lock()

        @post("/explain", status_code=200)
        async def explain(data: JSONBody[ExplainRequest], request: Request[None, None, State]) -> Explanation:
            return await unless_gone(request.receive, _in_turn(turn, partial(_explained, holder, explainer, data)))

        self._socket = listen(host, port)
        name = socket.gethostname() if host in ("0.0.0.0", "::") else host  # noqa: S104
        self.address = address(name, self._socket.getsockname()[1])
        routes = [score, features, explain]
        app = Litestar(routes, exception_handlers=HANDLERS, logging_config=None, openapi_config=None)
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="http", daemon=True)

    def __enter__(self) -> ScoreServer:
        self._thread.start()
        deadline = time.monotonic() + START_S
        while not self._server.started:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise Misconfigured(f"the score worker's HTTP server does not start on {self.address}")
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=START_S)


async def _answers(engine: Engine, texts: list[str]) -> list[Scored | Rejected]:
    scoring = await asyncio.to_thread(engine.begin, texts, Priority.INTERACTIVE)
    try:
        return await asyncio.to_thread(scoring.result)
    except asyncio.CancelledError:
        scoring.cancel()
        raise


def _current(holder: Holder) -> InService:
    try:
        return holder.current
    except Transient as error:
        raise unavailable(str(error)) from None


def _features(current: InService, texts: list[str]) -> Features:
    """At the lowest priority: nobody waits for it as for a score."""
    try:
        found = current.engine.embed(texts, Priority.BACKGROUND)
    except Rejected as rejected:
        raise _refused("texts", rejected) from None
    key, rows = current.engine.runtime.key, found.astype("<f4").tobytes()
    return Features(current.version, current.epoch, key, found.shape[1], rows)


def _score(index: int, answer: Scored | Rejected) -> Score:
    if isinstance(answer, Rejected):
        raise _refused(f"texts[{index}]", answer)
    return Score(answer.label, answer.probabilities, answer.truncated, answer.abstained)


def _refused(field: str, why: Rejected) -> Problem:
    error = FieldError(field, why.detail or why.reason)
    return Problem(422, why.reason, f"{error.field}: {error.detail}", errors=[error])


async def _in_turn(turn: asyncio.Lock, explain: Callable[[threading.Event], Explanation]) -> Explanation:
    """One explanation at a time; one whose caller has gone has its turn until its thread notices."""
    try:
        # Waits here and not on a thread: those are few, and scoring needs them.
        async with asyncio.timeout(TURN_S):
            await turn.acquire()
    except TimeoutError:
        raise unavailable("other texts are being explained") from None
    given_up = threading.Event()
    explaining = asyncio.ensure_future(asyncio.to_thread(explain, given_up))
    explaining.add_done_callback(lambda _: turn.release())
    try:
        return await asyncio.shield(explaining)
    except asyncio.CancelledError:
        given_up.set()
        raise


def _explained(holder: Holder, explainer: Explainer, asked: ExplainRequest, given_up: threading.Event) -> Explanation:
    current = _current(holder)
    try:
        found = explainer.explain(current.engine, asked.text, asked.label, given_up)
    except Rejected as rejected:
        raise _refused("text", rejected) from None
    return Explanation(
        model=current.version,
        epoch=current.epoch,
        label=found.scored.label,
        probabilities=found.scored.probabilities,
        truncated=found.scored.truncated,
        abstained=found.scored.abstained,
        fp32_label=found.fp32_label,
        explained=found.explained,
        tokens=[_token(asked.text, word, attribution) for word, attribution in found.words],
        value=found.value,
        baseline=found.baseline,
        gap=found.gap,
        relative_gap=found.relative_gap,
    )


def _token(text: str, word: Word, attribution: float) -> Token:
    return Token(text[word.start : word.end], word.start, word.end, attribution)
