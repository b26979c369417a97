"""What the tests of a challenger's way share: a gate that let it pass, texts that were scored, decisions by people."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from loop.scoring import database

from services.settings import Settings
from services.trainer import registry, standing
from services.trainer.promotion import Promoter
from services.trainer.registry import GATE, LedgerRow

WANTED = 30
"""Texts of a shadow."""


def passes(settings: Settings, version: str) -> int:
    """As the gate writes it; the row's number."""
    with database(settings) as cursor:
        row = registry.decide(cursor, "pass", version, actor=GATE, reason="better: +9 −1", evidence={"look": 1})
    return row.epoch


@contextmanager
def person(settings: Settings) -> Iterator[Promoter]:
    with closing(settings.open_bus("test")) as bus:
        yield Promoter(bus, settings.connector("test"), settings.prepare_s)


def rows(settings: Settings) -> list[LedgerRow]:
    with database(settings) as cursor:
        return registry.ledger(cursor)


def told(settings: Settings) -> list[tuple[str, str]]:
    """Actions and versions of the ledger, but for the bundled model's."""
    return [(row.action, row.version) for row in rows(settings)[1:]]


def state(settings: Settings) -> str | None:
    found = standing.candidate(rows(settings))
    return found.state if found else None


def unbroken(settings: Settings) -> list[str]:
    """What is wrong with the ledger, and with it against `models`."""
    with closing(settings.open_bus("test")) as bus:
        announced = registry.announced(bus)
    return registry.verify(rows(settings), announced)


def scored(settings: Settings, model: str, count: int, prefix: str = "s") -> None:
    """Texts that `model` has scored, and the store has stored."""
    with database(settings) as cursor:
        cursor.execute(
            "INSERT INTO text (text_id, cluster, body, source, language, marks, event_time, received)"
            " SELECT %(p)s || n, %(p)s || n, (ARRAY['Profit at Harlow doubles to ', 'Orders at Harlow slump to ',"
            " 'Harlow holds its annual meeting on day '])[1 + n %% 3] || n, 'wire', 'en', '{}', n, n"
            " FROM generate_series(1, %(n)s) n",
            {"p": prefix, "n": count},
        )
        cursor.execute(
            "INSERT INTO prediction (prediction_id, text_id, cluster, label, negative, neutral, positive, model, epoch,"
            " tickers, source, language, event_time, scored, truncated, abstained, origin_partition, origin_offset)"
            " SELECT 'p' || text_id, text_id, cluster, 'neutral', 0.1, 0.8, 0.1, %s, 1, '{}', source, language,"
            " event_time, 1, false, false, 0, 0 FROM text WHERE text_id LIKE %s",
            (model, prefix + "%"),
        )
