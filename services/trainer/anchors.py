"""The shipped anchor set: ordinary financial texts written and labelled for this project, apart from the demo's stream.

Half are replayed in every training, half measure what a challenger has forgotten; which is which is fixed by id.
"""

from __future__ import annotations

from importlib.resources import files

import msgspec

from services.stream.events import Label, derived_id


class Anchor(msgspec.Struct, frozen=True):
    """One labelled text."""

    id: str
    text: str
    label: Label

    @property
    def replayed(self) -> bool:
        """True for the half that is trained on, False for the half that measures."""
        return int(derived_id("anchor", self.id)[:2], 16) % 2 == 0


def anchors() -> list[Anchor]:
    """All of them."""
    content = (files("services.trainer") / "anchor.jsonl").read_text(encoding="utf-8")
    return [msgspec.json.decode(line, type=Anchor) for line in content.rstrip("\n").split("\n")]
