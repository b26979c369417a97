"""A run's dataset, from the tables to what is trained on: read, kept apart, capped."""

from __future__ import annotations

from psycopg2.extensions import cursor as Cursor

from services.trainer import caps, dataset, splits
from services.trainer.base import NO_BASE, Base
from services.trainer.dataset import Cut, Dataset


def assemble(cursor: Cursor, base: Base = NO_BASE, cut: Cut | None = None) -> Dataset:
    """What a run learns from now, or from what there was at `cut`; `base` is replayed beside the anchor set."""
    data = dataset.collect(cursor, cut)
    data = data._replace(replay=[*data.replay, *base.examples], base=base.files)
    data = splits.apart(data, splits.learned(cursor, data.cut.run))
    return caps.capped(data)
