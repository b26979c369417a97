"""The review queue: POST /v1/review/leases, DELETE /v1/review/leases/{lease_id}."""

from __future__ import annotations

from collections.abc import Sequence
from random import SystemRandom
from typing import Annotated, Final, NamedTuple

import msgspec
import numpy as np
from litestar import delete, post
from litestar.params import JSONBody, PathParameter
from msgspec import Meta
from psycopg2.extensions import cursor as Cursor

from services import annotators
from services.clean import entities
from services.gateway import queries
from services.gateway.access import name_of
from services.gateway.core import Gateway, SafeRequest, gateway_of
from services.gateway.problems import SPECS, Problem, no_nul
from services.gateway.queries import PredictionView
from services.keys import Key
from services.review import candidates, gold, leases, ranking
from services.review.candidates import Wanted
from services.review.leases import Lease, Offer
from services.review.ranking import Candidate
from services.runtime import now_ms
from services.score.wire import MAX_CHARS
from services.stream.errors import Misconfigured, Transient
from services.stream.events import Name

MOST: Final = 50
"""Texts that one person has at a time."""
SPARE: Final = 2
"""So many times the texts that are wanted are picked: some may be given to others meanwhile."""

# Nobody should foresee which text is drawn, nor where a gold question lies.
random: Final = SystemRandom()

_Short = Annotated[str, Meta(min_length=1, max_length=200)]


class LeaseRequest(msgspec.Struct, frozen=True):
    """`annotator` is the key's name, and may be left out; without keys it is needed, and any pseudonym will do."""

    count: Annotated[int, Meta(ge=1, le=MOST)] = 10
    ticker: _Short | None = None
    language: _Short | None = None
    annotator: Name | None = None


class LeaseView(msgspec.Struct, frozen=True):
    """A text to judge before `expires` (ms since the epoch); whoever gives a word on its prediction has answered it."""

    lease: str
    expires: int
    prediction: PredictionView


class LeaseAnswer(msgspec.Struct, frozen=True):
    """`waiting` texts wait for a first reader beside these. `left_out` says what the queue could not do, and why."""

    leases: list[LeaseView]
    waiting: int
    left_out: list[str]


class _Desk(NamedTuple):
    """What there is for one person."""

    candidates: list[Candidate]
    asked: gold.Asked


@post("/v1/review/leases", status_code=200, responses=SPECS, tags=["feedback"])
async def post_leases(request: SafeRequest, data: JSONBody[LeaseRequest]) -> LeaseAnswer:
    """Texts that a person's word would help most, kept for them for ten minutes.

    Asking again gives what one has, for another ten minutes, filled up to `count`; what doesn't fit the filter any more
    is let go. Some texts were judged before, by others: what several people say tells how far each can be relied on.
    """
    no_nul(ticker=data.ticker, language=data.language, annotator=data.annotator)
    gateway, name = gateway_of(request), name_of(request, "annotator", data.annotator)
    annotator = await gateway.pool.run(lambda cursor: annotators.pseudonym(cursor, name))
    wanted = Wanted(data.ticker, data.language)
    held = await gateway.pool.run(lambda cursor: leases.renewed(cursor, annotator, wanted, now_ms()))
    desk = await gateway.pool.run(lambda cursor: _desk(cursor, annotator, wanted))
    left_out: list[str] = []
    if (missing := data.count - len(held)) > 0:
        offers = await _offers(gateway, desk, wanted, missing, left_out)
        await gateway.pool.run(lambda cursor: leases.grant(cursor, annotator, offers, data.count, now_ms()))
    views = await gateway.pool.run(lambda cursor: _views(cursor, leases.held(cursor, annotator, now_ms())))
    given = {view.prediction.prediction_id for view in views}
    waiting = sum(c.first and not c.words and c.prediction_id not in given for c in desk.candidates)
    return LeaseAnswer(views[: data.count], waiting, left_out)


@delete("/v1/review/leases/{lease_id:str}", responses=SPECS, tags=["feedback"])
async def delete_lease(request: SafeRequest, lease_id: Annotated[str, PathParameter(max_length=200)]) -> None:
    """Let a text go without a word; somebody else is asked about it. Nothing where the lease has ended already."""
    no_nul(lease_id=lease_id)
    key: Key | None = request.user

    def release(cursor: Cursor) -> None:
        holder = None if key is None else annotators.pseudonym(cursor, key.name)
        leases.release(cursor, lease_id, holder, now_ms())

    await gateway_of(request).pool.run(release)


def _desk(cursor: Cursor, annotator: str, wanted: Wanted) -> _Desk:
    now = now_ms()
    return _Desk(candidates.read(cursor, annotator, wanted, now), gold.asked(cursor, annotator, now))


async def _offers(gateway: Gateway, desk: _Desk, wanted: Wanted, n: int, left_out: list[str]) -> list[Offer]:
    """What to offer, best first, with gold questions anywhere among it."""
    if not desk.candidates:
        return []
    spread = await _spread(gateway, desk, SPARE * n, left_out)
    picks = ranking.queue(desk.candidates, spread, SPARE * n, random)
    offers = [_offer(pick) for pick in picks]
    if wanted.gold:
        for question in await _questions(gateway, desk, min(n, len(offers)), left_out):
            offers.insert(random.randrange(n), question)
    return offers


def _offer(pick: ranking.Pick) -> Offer:
    why, c = pick
    return Offer(why, c.prediction_id, c.text_id, sampled=pick.drawn, first=why == "random" or not c.words)


async def _spread(gateway: Gateway, desk: _Desk, n: int, left_out: list[str]) -> list[Candidate]:
    """The uncertain, far from each other and from what was looked at lately, as far as a score worker can tell."""
    pool = ranking.uncertain(desk.candidates)
    tops = pool[: ranking.POOL * n]
    try:
        lately = await gateway.pool.run(leases.lately)
        rows = await _features(gateway, [c.text_id for c in tops], lately)
    except (Problem, Transient) as why:
        left_out.append(f"texts like each other may come: {why}")
        return pool
    known = [c for c in tops if c.text_id in rows]
    near = [rows[text] for text in lately if text in rows]
    order = ranking.far_apart(np.array([rows[c.text_id] for c in known]), np.array(near), len(known))
    return [known[i] for i in order] + pool[len(tops) :]


async def _features(gateway: Gateway, tops: list[str], lately: list[str]) -> dict[str, np.ndarray]:
    """By text id, of those that are still kept."""
    ids = list(dict.fromkeys(tops + lately)) if tops else []
    bodies = await gateway.pool.run(lambda cursor: queries.bodies(cursor, ids, MAX_CHARS))
    texts = {name: bodies[name][0] for name in ids if name in bodies}
    return dict(zip(texts, await gateway.embeddings.of(texts), strict=True))


async def _questions(gateway: Gateway, desk: _Desk, n: int, left_out: list[str]) -> list[Offer]:
    """Gold questions among `n` texts; without others they would stand out."""
    english = [c.prediction_id for c in desk.candidates if "language en" in c.slices]
    number = gold.wanted(desk.asked, n, random) if english else 0
    found = gold.tried(desk.asked, random) if number else []
    if not found:
        return []
    drawn = [random.choice(english) for _ in range(number)]
    try:
        scores = await gateway.scorers.score([anchor.text for anchor in found])
        real = await gateway.pool.run(lambda cursor: queries.predictions_named(cursor, drawn))
        table = entities.load(gateway.settings.companies or None)
    except (Problem, Transient, Misconfigured) as why:
        left_out.append(f"no questions whose answer is known: {why}")
        return []
    chosen = gold.chosen(found, scores, number, random)
    like = [gold.borrowed(real[name], random) for name in drawn if name in real]
    return [gold.offer(found[i], scores, i, part, table) for i, part in zip(chosen, like, strict=False)]


def _views(cursor: Cursor, held: Sequence[Lease]) -> list[LeaseView]:
    """Without address and source's id, which a gold question can't have; what was erased is left out."""
    stored = queries.predictions_named(cursor, [lease.prediction_id for lease in held])
    views = []
    for lease in held:
        view = queries.question(lease.shown and gold.with_text(lease.shown)) or stored.get(lease.prediction_id)
        if view is not None and view.text is not None:
            plain = msgspec.structs.replace(view, url=None, external_id=None)
            views.append(LeaseView(lease.lease_id, lease.expires, plain))
    return views
