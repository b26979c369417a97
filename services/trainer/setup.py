"""The first model: the bundled one is registered and promoted where the ledger is empty."""

from __future__ import annotations

import json

from psycopg2.extensions import cursor as Cursor

from services.score import artifact
from services.stream.bus import Bus, Outgoing
from services.trainer import registry


def register_bundled(bus: Bus) -> None:
    """Safe to repeat and to run in two processes at once.

    Raises:
        Rejected: the shipped files aren't what their card says.
        Misconfigured: the base encoder is missing or isn't the pinned one.
    """
    folder = artifact.bundled()
    card = artifact.load(folder).card
    first: list[bool] = []

    def write(cursor: Cursor) -> list[Outgoing]:
        registry.register(cursor, card.version, None, json.loads((folder / artifact.CARD).read_bytes()), folder)
        first.append(registry.champion(cursor) is None)
        return []

    bus.write(write)
    if first[-1]:
        try:
            registry.promote(
                bus, card.version, actor="setup", reason="the bundled model", evidence={}, expected_epoch=0
            )
        except registry.Conflict:
            return  # another process was first
