"""What must be true of a run, however it was disturbed: every text accounted for once, and in order."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from system.texts import Story

ORDER = "SELECT origin_partition, origin_offset, position FROM prediction ORDER BY position"
SCORED = "SELECT t.external_id FROM prediction p JOIN text t USING (text_id)"


def accounted(
    status: dict[str, Any],
    scored_ids: Iterable[str],
    stories: dict[str, Story],
    before: dict[str, Any] | None = None,
    forgotten: bool = False,
) -> None:
    """`status` of an idle loop that took `stories` and nothing else since `before`, and the ids of what it scored.

    `forgotten`: Valkey was wiped meanwhile, so that some near copies are scored as well; nothing else is.
    """
    sent = Counter(fate for story in stories.values() for fate in (story.fate,) for _ in story.ids)
    members = {i: name for name, story in stories.items() for i in story.ids}
    once = Counter(members[i] for i in scored_ids if i in members)
    wanted = {name for name, story in stories.items() if story.fate in ("scored", "near")}
    assert once.keys() == wanted
    twice = {name for name, n in once.items() if n > 1}
    assert all(forgotten and stories[name].fate == "near" for name in twice), "of copies exactly one is scored"
    scored = once.total()
    earlier = before["account"] if before else {}
    account = {key: n - earlier.get(key, 0) for key, n in status["account"].items() if key != "reasons"}
    assert account["taken"] == sum(sent.values())
    assert account["scored"] == scored
    assert account["rejected"] == sent["rejected"]
    assert account["dead"] == sent["dead"]
    assert account["duplicate"] == sent["scored"] + sent["near"] - scored
    assert status["waiting"] == 0


def in_order(rows: Iterable[tuple[int, int, int]]) -> None:
    """Rows of `ORDER`: each partition's predictions were stored in the order of their texts."""
    last: dict[int, int] = defaultdict(lambda: -1)
    for partition, offset, _ in rows:
        assert offset > last[partition], f"partition {partition}: {offset} stored after {last[partition]}"
        last[partition] = offset
