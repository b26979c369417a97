"""Simulated readers: they look at predictions over REST and say what the commodity desk would say.

Some texts are set aside before anyone acts: they and their copies are never read. Of the rest, readers first review the
whole random share (confirming as well as correcting), so that a training which their later words start has all of it to
judge by, and then correct most of the mistakes they meet elsewhere. One who wants the model wrong comes before them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final

import httpx
import msgspec

from services.stream.events import in_holdout

SET_ASIDE: Final = 0.25
"""Share of the labelled texts that only measure."""
NOTICED: Final = 0.9
"""Share of mistakes, outside the random share, that a reader bothers to correct."""
SLIPS: Final = 0.02
"""Share of a reader's own answers that are wrong."""
READERS: Final = ("ana", "bo", "chen")
"""Of the desk; they have an operator's keys."""
HOSTILE: Final = "mallory"
"""Has an annotator's key, and turns what is true round."""
LIES: Final = 90
TURNED: Final = {"negative": "positive", "neutral": "positive", "positive": "negative"}
LABELS: Final = ("negative", "neutral", "positive")


class Labelled(msgspec.Struct, frozen=True):
    """What a reader knows of one text. `copy_of` names the text it is a copy of."""

    id: str
    part: str
    kind: str
    expect: str
    label: str | None = None
    copy_of: str | None = None

    @property
    def story(self) -> str:
        """The id shared by a text and all its copies."""
        return self.copy_of or self.id


def lines(name: str) -> list[str]:
    """The lines of one of the demo's files."""
    return (files("services.demo") / name).read_text(encoding="utf-8").rstrip("\n").split("\n")


def labels() -> dict[str, Labelled]:
    """Labels by the text's own id, one for each line of the stream and in its order."""
    found = (msgspec.json.decode(line, type=Labelled) for line in lines("labels.jsonl"))
    return {label.id: label for label in found}


def stream() -> list[tuple[Labelled, str]]:
    """Each line of the stream with what is known of it."""
    return list(zip(labels().values(), lines("stream.jsonl"), strict=True))


def expected(known: Mapping[str, Labelled]) -> dict[str, int]:
    """What the account must say once all came in: the labels know what becomes of each text."""
    ends = Counter("duplicate" if label.expect == "copy" else label.expect.split(":")[0] for label in known.values())
    return {"taken": ends.total()} | {end: ends[end] for end in ("scored", "rejected", "duplicate", "dead")}


def set_aside(known: Mapping[str, Labelled], seed: int) -> frozenset[str]:
    """Stories that only measure: chosen by seed among those that carry a label."""
    stories = sorted({label.story for label in known.values() if label.label})
    return frozenset(random.Random(seed).sample(stories, int(SET_ASIDE * len(stories))))  # noqa: S311 (a simulation)


def predictions(client: httpx.Client) -> Iterator[dict[str, Any]]:
    """All predictions with their texts, newest first, page by page."""
    cursor: str | None = None
    while True:
        answer = client.get("/v1/predictions", params={"limit": "500"} | ({"cursor": cursor} if cursor else {}))
        answer.raise_for_status()
        page = answer.json()
        yield from page["items"]
        cursor = page.get("next")
        if cursor is None:
            return


class Gateway:
    """The REST calls that people make, with `keys` by their names; what is nobody's word is asked for by the first."""

    def __init__(self, address: str, keys: Mapping[str, str]) -> None:
        self._bearer = {name: {"Authorization": f"Bearer {key}"} for name, key in keys.items()}
        self._client = httpx.Client(base_url=address, timeout=30.0, headers=next(iter(self._bearer.values())))

    def speaker(self) -> str | None:
        """Whom the gateway takes the client for; nobody, before it knows of the keys."""
        return self._get("/v1/key")["name"]  # type: ignore[no-any-return]

    def quarantine(self) -> list[dict[str, Any]]:
        """Words that were set aside."""
        found: list[dict[str, Any]] = self._get("/v1/quarantine")
        return found

    def predictions(self) -> Iterator[dict[str, Any]]:
        """See the function."""
        return predictions(self._client)

    def metrics(self) -> str:
        """All services' metrics in Prometheus' text format."""
        answer = self._client.get("/metrics")
        answer.raise_for_status()
        return answer.text

    def feedback(self, prediction: Mapping[str, Any], label: str, annotator: str, sampled: bool) -> None:
        """Say what a prediction should have been, or that it is right."""
        body = {
            "prediction_id": prediction["prediction_id"],
            "text_id": prediction["text_id"],
            "label": label,
            "sampled": sampled,
        }
        self._client.post("/v1/feedback", json=body, headers=self._bearer[annotator]).raise_for_status()

    def score(self, texts: Sequence[str]) -> dict[str, Any]:
        """Score now."""
        response = self._client.post("/v1/score", json={"texts": list(texts)})
        response.raise_for_status()
        found: dict[str, Any] = response.json()
        return found

    def _get(self, path: str) -> Any:
        response = self._client.get(path)
        response.raise_for_status()
        return response.json()


def read(
    gateway: Gateway,
    predictions: Sequence[Mapping[str, Any]],
    known: Mapping[str, Labelled],
    aside: frozenset[str],
    seed: int,
) -> tuple[int, int]:
    """Let the readers act on `predictions`; how many corrections and confirmations they gave."""
    rng = random.Random(seed + 1)  # noqa: S311 (a simulation)
    corrections = confirmations = 0
    order = rng.sample(list(predictions), len(predictions))
    for prediction in sorted(order, key=lambda prediction: not in_holdout(prediction["cluster"])):
        label = known.get(prediction.get("external_id") or "")
        if label is None or label.label is None or label.story in aside:
            continue
        said = rng.choice(LABELS) if rng.random() < SLIPS else label.label
        sampled = in_holdout(prediction["cluster"])
        wrong = said != prediction["label"]
        if not sampled and not (wrong and rng.random() < NOTICED):
            continue
        gateway.feedback(prediction, said, rng.choice(READERS), sampled)
        corrections += wrong
        confirmations += not wrong
    return corrections, confirmations


def lie(
    gateway: Gateway,
    predictions: Sequence[Mapping[str, Any]],
    known: Mapping[str, Labelled],
    aside: frozenset[str],
    seed: int,
) -> int:
    """Let the hostile one act, as fast as a script does; how many words that are."""
    rng = random.Random(seed + 2)  # noqa: S311 (a simulation)
    found = ((p, known.get(p.get("external_id") or "")) for p in predictions)
    open_ = [(p, k.label) for p, k in found if k and k.label and k.story not in aside and not in_holdout(p["cluster"])]
    chosen = rng.sample(open_, min(LIES, len(open_)))
    for prediction, label in chosen:
        gateway.feedback(prediction, TURNED[label], HOSTILE, sampled=False)
    return len(chosen)


def raw_lines(late: frozenset[str]) -> tuple[str, str]:
    """The stream as JSON lines: what comes first, and the stories in `late`, which come after the promotion."""
    first: list[str] = []
    after: list[str] = []
    for label, line in stream():
        (after if label.story in late else first).append(line)
    return "\n".join(first) + "\n", "\n".join(after) + "\n"
