"""The first model: the bundled one is registered and promoted where the ledger is empty."""

from __future__ import annotations

from contextlib import suppress

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
    model = artifact.load(artifact.bundled())
    card = model.card

    def write(cursor: Cursor) -> list[Outgoing]:
        registry.register(cursor, card.version, None, artifact.files_of(model))
        if registry.champion(cursor) is not None:
            return []
        row = registry.decide(
            cursor,
            "promote",
            card.version,
            actor="setup",
            reason="the bundled model",
            evidence={},
            expected_epoch=0,
        )
        return [registry.announcement(row)]

    with suppress(registry.Conflict):  # another process was first
        bus.write(write)
