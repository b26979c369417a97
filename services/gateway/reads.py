"""GET /v1/predictions and /v1/tickers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec
import redis
from litestar import get
from litestar.params import FromQuery, PathParameter, QueryParameter

from services.gateway import queries
from services.gateway.core import SafeRequest, gateway_of
from services.gateway.problems import SPECS, Problem, invalid, no_nul
from services.gateway.queries import Filter, Latest, PredictionView, Window
from services.runtime import now_ms
from services.stream.events import LAST_MS, Label

MAX_WINDOWS: Final = 7 * 24 * 60

_Id = Annotated[str, PathParameter(max_length=200)]
_Limit = Annotated[int, QueryParameter(ge=1, le=1_000)]
_Short = Annotated[str | None, QueryParameter(max_length=200)]
_From = Annotated[str | None, QueryParameter(name="from", max_length=40, description="ms since the epoch, or RFC 3339")]
_To = Annotated[str | None, QueryParameter(name="to", max_length=40, description="ms since the epoch, or RFC 3339")]


class Page(msgspec.Struct, frozen=True):
    """`next` is the cursor of the page after this one; null on the last."""

    items: list[PredictionView]
    next: str | None


class TickerView(Latest, frozen=True, kw_only=True):
    """The newest sentiment of a ticker."""

    ticker: str


class Windows(msgspec.Struct, frozen=True):
    """Minutes of one ticker, oldest first."""

    ticker: str
    windows: list[Window]


@get("/v1/predictions/{prediction_id:str}", responses=SPECS, tags=["predictions"])
async def get_prediction(request: SafeRequest, prediction_id: _Id) -> PredictionView:
    """One prediction with its text, if that is still kept."""
    no_nul(prediction_id=prediction_id)
    found = await gateway_of(request).pool.run(lambda cursor: queries.prediction(cursor, prediction_id))
    if found is None:
        raise Problem(404, "not-found", "no such prediction is stored; one just made appears within a second")
    return found


@get("/v1/predictions", responses=SPECS, tags=["predictions"])
async def get_predictions(
    request: SafeRequest,
    ticker: _Short = None,
    source: _Short = None,
    label: FromQuery[Label | None] = None,
    text_id: _Short = None,
    start: _From = None,
    end: _To = None,
    limit: _Limit = 50,
    cursor: Annotated[str | None, QueryParameter(max_length=500)] = None,
) -> Page:
    """Newest first by event time. Follow `next` for the rest: what was stored before the first page is seen once."""
    no_nul(ticker=ticker, source=source, text_id=text_id)
    before = queries.decode_cursor(cursor) if cursor else None
    if before is not None:
        no_nul(cursor=before[1])
    wanted = Filter(ticker, source, label, text_id, _time("from", start), _time("to", end), before)
    found = await gateway_of(request).pool.run(lambda c: queries.predictions(c, wanted, limit + 1))
    items = found[:limit]
    return Page(items, queries.encode_cursor(items[-1]) if len(found) > limit else None)


@get("/v1/tickers/{ticker:str}", responses=SPECS, tags=["tickers"])
async def get_ticker(request: SafeRequest, ticker: _Id) -> TickerView:
    """The newest sentiment, from the cache or, without it, from the table."""
    no_nul(ticker=ticker)
    latest = await _cached(request, ticker)
    if latest is None:
        latest = await gateway_of(request).pool.run(lambda cursor: queries.latest(cursor, ticker))
    if latest is None:
        raise Problem(404, "not-found", f"no prediction mentions {ticker}")
    return TickerView(ticker=ticker, **msgspec.structs.asdict(latest))


async def _cached(request: SafeRequest, ticker: str) -> Latest | None:
    cache = gateway_of(request).cache
    if cache is None:
        return None
    try:
        for name in dict.fromkeys((ticker, ticker.upper())):
            value = await cache.hget(f"latest:{name}", "json")
            if value is not None:
                return msgspec.json.decode(value, type=Latest)
    except (redis.exceptions.RedisError, OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return None


@get("/v1/tickers/{ticker:str}/windows", responses=SPECS, tags=["tickers"])
async def get_windows(request: SafeRequest, ticker: _Id, start: _From = None, end: _To = None) -> Windows:
    """Minute aggregates; the last day by default, a week at most. A window may still be revised until it is closed."""
    no_nul(ticker=ticker)
    upto = _time("to", end)
    upto = now_ms() + queries.MINUTE_MS if upto is None else upto
    since = _time("from", start)
    since = upto - queries.DAY_MS if since is None else since
    found = await gateway_of(request).pool.run(lambda cursor: queries.windows(cursor, ticker, since, upto, MAX_WINDOWS))
    return Windows(ticker, found)


def _time(name: str, given: str | None) -> int | None:
    if given is None:
        return None
    try:
        if given.isascii() and given.isdigit():
            moment = int(given)
        else:
            parsed = datetime.fromisoformat(given)
            moment = int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        moment = -1
    if not 0 <= moment <= LAST_MS:
        raise invalid(name, "takes milliseconds since the epoch or RFC 3339", "query")
    return moment
