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


TRADES = ("brewery", "tannery", "sawmill", "bakery", "foundry", "dairy", "quarry", "printer", "nursery", "smithy")
CLAUSES = ("the owners spoke at length with the families who own the land along the river",
           "the workers want the old hall to be used as a school for the young people",
           "nobody knows yet who is going to pay for the new road through the valley",
           "the mayor hopes that more visitors will come to see the place by train",
           "some of the machines are so old that a museum has asked for them",
           "the neighbours would like to have their quiet evenings back before long",
           "a bank in the region is said to look at the plans with some interest",
           "the council talks about the matter whenever it meets in the small town")  # fmt: skip
ENDINGS = ("", " though")


class Story(NamedTuple):
    """What must be true of all raw texts of one story: how often it was sent, and how it ends."""

    ids: list[str]
    fate: str
    """`scored`: one of the ids is scored, the others are duplicates; `near`: as `scored`, but a copy is known only as
    long as Valkey remembers the one before; else the kind of refusal."""
    alike: bool = True
    """Whether its texts are the same, so that the answer doesn't depend on which is scored."""


def write(path: Path, count: int, seed: int, start_ms: int, near: float = 0.0) -> dict[str, Story]:
    """Write `count` lines or a few more; the stories by name, a share of `near` of them told in near copies.

    Event times span 100 s, well within the windows' lateness.
    """
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
        if kind < 0.05 or kind > 1 - near:
            fate, texts = ("scored", _cut(rng, name)) if kind < 0.05 else ("near", _near(rng, name))
            stories[name] = Story([f"{name}.{i}" for i in range(len(texts))], fate, alike=False)
            lines += [
                json.dumps({"id": i, "source": f"wire{n}", "text": text, "published": when})
                for n, (i, text) in enumerate(zip(stories[name].ids, texts, strict=True))
            ]
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


def _cut(rng: random.Random, name: str) -> list[str]:
    """A text without tickers, its copy, and what a feed that cuts texts off makes of it."""
    whole = (
        f"A {rng.choice(TRADES)} in district {name[1:]} {rng.choice(VERBS)} its {rng.choice(THINGS)}"
        f" {rng.choice(REASONS)}, and {rng.choice(CLAUSES)}"
    )
    return [whole, whole, " ".join(whole.split()[:-6]) + " …"]


def _near(rng: random.Random, name: str) -> list[str]:
    """A long text without tickers, told twice, once with a word more; its number sets it apart from all others."""
    told = ", and ".join(rng.sample(CLAUSES, len(CLAUSES)))
    start = f"About the {rng.choice(TRADES)} in district {name[1:]}: {told}"
    return [start + ending for ending in ENDINGS]
