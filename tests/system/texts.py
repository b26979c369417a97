"""20,000 raw texts from a seed, with what must become of each: the test's own knowledge, nothing of the project's."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import NamedTuple

COMPANIES = {
    "Apple": "AAPL", "Microsoft": "MSFT", "Nvidia": "NVDA", "Tesla": "TSLA", "Boeing": "BA", "Pfizer": "PFE",
    "Netflix": "NFLX", "Intel": "INTC", "Oracle": "ORCL", "Adobe": "ADBE", "Starbucks": "SBUX", "Nike": "NKE",
}  # fmt: skip
VERBS = ("beats", "misses", "raises", "cuts", "confirms", "withdraws", "reports", "delays", "extends", "halves")
THINGS = ("profit outlook", "dividend", "revenue guidance", "factory opening", "share buyback", "merger talks",
          "bond sale", "hiring plans", "price target", "quarterly loss", "cloud orders", "store closures")  # fmt: skip
REASONS = ("after weak demand in Europe", "as margins improve", "amid a lawsuit by former suppliers",
           "on record holiday sales", "despite rising freight costs", "following an audit of its accounts",
           "as regulators look closer", "thanks to a weaker dollar", "after the chief executive resigned")  # fmt: skip


class Story(NamedTuple):
    """What must be true of all raw texts of one story: how often it was sent, and how it ends."""

    ids: list[str]
    fate: str
    """`scored`: one of the ids is scored, the others are duplicates; else the kind of refusal."""


def write(path: Path, count: int, seed: int, start_ms: int) -> dict[str, Story]:
    """Write `count` lines; the stories by name. Event times span 100 s, well within the windows' lateness."""
    rng = random.Random(seed)
    stories: dict[str, Story] = {}
    lines: list[str] = []
    used: set[tuple[str, ...]] = set()
    while len(lines) < count:
        name = f"s{len(stories)}"
        kind = rng.random()
        when = start_ms + rng.randrange(100_000)
        if kind < 0.02:
            stories[name] = Story([name], "rejected")
            lines.append(json.dumps({"id": name, "source": "wire", "text": rng.choice(["", "  ", "🚀🚀", "!!!"])}))
            continue
        if kind < 0.04:
            stories[name] = Story([name], "dead")
            lines.append(json.dumps({"id": name, "source": "wire", "text": 17}))
            continue
        company = rng.choice(list(COMPANIES))
        parts = (company, rng.choice(VERBS), rng.choice(THINGS), rng.choice(REASONS), str(rng.randrange(100_000)))
        if parts in used:
            continue
        used.add(parts)
        text = f"${COMPANIES[company]} {company} {parts[1]} {parts[2]} {parts[3]}, involving {parts[4]} workers"
        copies = rng.choice((2, 3)) if kind < 0.12 else 1
        ids = [f"{name}.{i}" for i in range(copies)]
        stories[name] = Story(ids, "scored")
        lines += [
            json.dumps({"id": i, "source": f"wire{n}", "text": text, "published": when}) for n, i in enumerate(ids)
        ]
    rng.shuffle(lines)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return stories
