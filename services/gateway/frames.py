"""Records of the log → frames of the live stream, with the texts that the log's predictions don't carry."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
from psycopg2.extensions import connection as Connection

from services.gateway import queries
from services.gateway.positions import Positions, encode_positions
from services.gateway.queries import PredictionView
from services.stream.bus import Record, TopicPartition
from services.stream.database import Connect, suppress_lost, transaction
from services.stream.errors import Rejected, Transient
from services.stream.events import CleanText, ModelChange, Prediction, decode, encode
from services.stream.topics import CLEAN, MODELS, PREDICTIONS
from services.trainer.registry import CHANGES

MAX_TEXT_CHARS: Final = 4_000
"""What the stream shows of a long text; GET /v1/predictions/{id} gives all of it."""
MAX_HELD_CHARS: Final = 4_000_000
HELD_S: Final = 60.0
"""A text's prediction comes within moments of it; what was erased since is not shown for longer than so."""

_Text = tuple[str, str | None]
"""Body and address."""


class Frame(NamedTuple):
    """One event, encoded once for all clients. `tickers` None concerns everybody."""

    event_id: str
    tickers: frozenset[str] | None
    data: bytes


def frame(name: str, data: bytes, event_id: str | None = None) -> bytes:
    """An event on the wire; `data` is JSON and so has no line break."""
    head = f"id: {event_id}\n" if event_id is not None else ""
    return f"{head}event: {name}\ndata: ".encode() + data + b"\n\n"


class Texts:
    """Texts by id: seen passing in `texts.clean`, else looked up in one query. Of one thread."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self._seen: OrderedDict[str, tuple[float, _Text]] = OrderedDict()
        """With the time at which each came, oldest first."""
        self._chars = 0

    def learn(self, records: Iterable[Record]) -> None:
        """Remember cleaned texts: their predictions come within moments, sooner than the store has written them."""
        for record in records:
            try:
                text = decode(CleanText, record.value)
            except Rejected:
                continue
            if text.text_id not in self._seen:
                body = text.text[:MAX_TEXT_CHARS]
                self._seen[text.text_id] = time.monotonic(), (body, text.url)
                self._chars += len(body)
        self.forget()

    def forget(self) -> None:
        """Drop what is too old or too much."""
        oldest = time.monotonic() - HELD_S
        while self._seen and (self._chars > MAX_HELD_CHARS or next(iter(self._seen.values()))[0] < oldest):
            _, (_, (body, _)) = self._seen.popitem(last=False)
            self._chars -= len(body)

    def of(self, text_ids: Iterable[str]) -> Mapping[str, _Text]:
        """Those of the texts that are known or kept; while the database is away, those that are known."""
        wanted = set(text_ids)
        known = {text_id: self._seen[text_id][1] for text_id in wanted if text_id in self._seen}
        missing = [text_id for text_id in wanted if text_id not in known]
        if missing:
            try:
                known.update(self._look_up(missing))
            except Transient:
                self.close()
        return known

    def _look_up(self, text_ids: list[str]) -> Mapping[str, _Text]:
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
        with transaction(self._connection), self._connection.cursor() as cursor:
            return queries.bodies(cursor, text_ids, MAX_TEXT_CHARS)

    def close(self) -> None:
        """Free the connection; a later look-up opens another."""
        if self._connection is not None:
            with suppress_lost():
                self._connection.close()
            self._connection = None


class Renderer:
    """Turns records of `predictions` and `models` into frames; each frame's id is the position after its record."""

    def __init__(self, positions: Positions, texts: Texts) -> None:
        self.positions = dict(positions)
        self._texts = texts

    def frames(self, records: Sequence[Record]) -> list[Frame]:
        """One frame per record that can be read; a stranger's garbage is passed over."""
        self._texts.learn(record for record in records if record.topic == CLEAN)
        predictions = {id(record): event for record in records if (event := _prediction(record)) is not None}
        texts = self._texts.of({event.text_id for event in predictions.values()})
        made = []
        for record in records:
            if record.topic == CLEAN:
                continue
            self.positions[TopicPartition(record.topic, record.partition)] = record.offset + 1
            event = predictions.get(id(record))
            if event is not None:
                made.append(self._prediction_frame(event, texts.get(event.text_id, (None, None))))
            elif (change := model_change(record)) is not None:
                event_id = encode_positions(self.positions)
                made.append(Frame(event_id, None, frame("model", encode(change), event_id)))
        return made

    def _prediction_frame(self, event: Prediction, text: tuple[str | None, str | None]) -> Frame:
        event_id = encode_positions(self.positions)
        view = PredictionView(
            prediction_id=event.prediction_id,
            text_id=event.text_id,
            cluster=event.cluster,
            label=event.label,
            probabilities=event.probabilities,
            sentiment=round(event.sentiment, 6),
            model=event.model,
            epoch=event.epoch,
            tickers=list(event.tickers),
            source=event.source,
            language=event.language,
            event_time=event.event_time,
            scored=event.scored,
            truncated=event.truncated,
            abstained=event.abstained,
            foreign=event.foreign,
            text=text[0],
            url=text[1],
        )
        tickers = frozenset(ticker.casefold() for ticker in event.tickers)
        return Frame(event_id, tickers, frame("prediction", msgspec.json.encode(view), event_id))


def _prediction(record: Record) -> Prediction | None:
    if record.topic != PREDICTIONS:
        return None
    try:
        return decode(Prediction, record.value)
    except Rejected:
        return None


def model_change(record: Record) -> ModelChange | None:
    """What a record of `models` says, if it is a change of the champion and can be read."""
    if record.topic != MODELS:
        return None
    try:
        change = decode(ModelChange, record.value)
    except Rejected:
        return None
    return change if change.action in CHANGES else None
