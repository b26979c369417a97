"""Score and explain now, over HTTP: the one call between services. The gateway forwards requests here, so that one
engine in one process serves the stream and the people, the people first. Errors are RFC 9457 problems, which the
gateway hands on as they are.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Annotated, Final, Protocol

import msgspec
import uvicorn
from litestar import Litestar, Request, post
from litestar.datastructures import State
from litestar.params import JSONBody
from msgspec import Meta

from services.gateway.gone import unless_gone
from services.gateway.problems import HANDLERS, FieldError, Problem, unavailable
from services.runtime import address, listen
from services.score.engine import Engine, Scored
from services.score.explain import Explainer
from services.score.lanes import Priority
from services.score.tokens import Word
from services.stream.errors import Misconfigured, Rejected, Transient
from services.stream.events import Label

MAX_TEXTS: Final = 256
MAX_CHARS: Final = 20_000
START_S: Final = 10.0
TURN_S: Final = 5.0
"""How long an explanation waits for those before it; then another worker may be free."""

_Text = Annotated[str, Meta(max_length=MAX_CHARS)]


class Texts(msgspec.Struct, frozen=True):
    """Texts to score."""

    texts: Annotated[list[_Text], Meta(min_length=1, max_length=MAX_TEXTS)]


class Score(msgspec.Struct, frozen=True):
    """One text's answer; `probabilities` in the order negative, neutral, positive."""

    label: str
    probabilities: tuple[float, float, float]
    truncated: bool


class Response(msgspec.Struct, frozen=True):
    """All answers come from one model, in the order of the texts."""

    model: str
    epoch: int
    scores: list[Score]


class ExplainRequest(msgspec.Struct, frozen=True):
    """A text and the label to explain; without one it is the label that the text gets."""

    text: _Text
    label: Label | None = None


class Token(msgspec.Struct, frozen=True):
    """A word, number or mark: `text` is the sent text's characters from `start` to `end`."""

    text: str
    start: int
    end: int
    attribution: float


class ExplainResponse(msgspec.Struct, frozen=True):
    """See `services.score.explain.Explanation`; `label`, `probabilities` and `truncated` are those of `/score`."""

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
        async def score(data: JSONBody[Texts], request: Request[None, None, State]) -> Response:
            current = _current(holder)
            answers = await unless_gone(request.receive, _answers(current.engine, data.texts))
            return Response(current.version, current.epoch, [_score(*answer) for answer in enumerate(answers)])

        explainer, turn = Explainer(), asyncio.Lock()

        @post("/explain", status_code=200)
        async def explain(data: JSONBody[ExplainRequest]) -> ExplainResponse:
            try:
                # Waits here and not on a thread: those are few, and scoring needs them.
                await asyncio.wait_for(turn.acquire(), TURN_S)
            except TimeoutError:
                raise unavailable("other texts are being explained") from None
            try:
                return await asyncio.to_thread(_explained, holder, explainer, data)
            finally:
                turn.release()

        self._socket = listen(host, port)
        name = socket.gethostname() if host in ("0.0.0.0", "::") else host  # noqa: S104
        self.address = address(name, self._socket.getsockname()[1])
        app = Litestar([score, explain], exception_handlers=HANDLERS, logging_config=None, openapi_config=None)
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


def _score(index: int, answer: Scored | Rejected) -> Score:
    if isinstance(answer, Rejected):
        raise _refused(f"texts[{index}]", answer)
    return Score(answer.label, answer.probabilities, answer.truncated)


def _refused(field: str, why: Rejected) -> Problem:
    error = FieldError(field, why.detail or why.reason)
    return Problem(422, why.reason, f"{error.field}: {error.detail}", errors=[error])


def _explained(holder: Holder, explainer: Explainer, asked: ExplainRequest) -> ExplainResponse:
    current = _current(holder)
    try:
        found = explainer.explain(current.engine, asked.text, asked.label)
    except Rejected as rejected:
        raise _refused("text", rejected) from None
    return ExplainResponse(
        model=current.version,
        epoch=current.epoch,
        label=found.scored.label,
        probabilities=found.scored.probabilities,
        truncated=found.scored.truncated,
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
