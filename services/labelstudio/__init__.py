"""Label Studio's JSON: predictions as tasks with pre-annotations, annotations as people's words.

Written after its guides "Import pre-annotated data" and "Export annotations" (labelstud.io/guide/predictions,
/guide/export) and the exports in its own tests. What names a prediction travels in a task's `data`, which Label Studio
hands back as it came. `cli` has the commands.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from xml.sax.saxutils import quoteattr

import msgspec

from services.gateway.queries import PredictionView
from services.stream.errors import Rejected
from services.stream.events import LABELS, Label

CONTROL: Final = "sentiment"
"""Name of the labeling configuration's choices."""
OBJECT: Final = "text"
"""Name of what is labelled, and the field of `data` that holds it."""


def config() -> str:
    """The labeling configuration, for a project's settings: one choice, keys 1 to 3 as on the page."""
    choices = "\n".join(
        f"    <Choice value={quoteattr(label)} hotkey={quoteattr(str(key))}/>" for key, label in enumerate(LABELS, 1)
    )
    return (
        f'<View>\n  <Text name="{OBJECT}" value="${OBJECT}"/>\n'
        f'  <Choices name="{CONTROL}" toName="{OBJECT}" choice="single" showInLine="true">\n{choices}\n  </Choices>\n'
        "</View>"
    )


def task(view: PredictionView, sampled: bool = False) -> dict[str, Any]:
    """A stored prediction whose text is kept, as a task; `sampled` where it was drawn at random."""
    return {
        "data": {
            OBJECT: view.text,
            "prediction_id": view.prediction_id,
            "text_id": view.text_id,
            "sampled": sampled,
            "source": view.source,
            "tickers": view.tickers,
            "published": datetime.fromtimestamp(view.event_time / 1000, UTC).isoformat(timespec="seconds"),
        },
        "predictions": [
            {
                "model_version": view.model,
                "score": max(view.probabilities),
                "result": [
                    {
                        "id": view.prediction_id[:10],
                        "from_name": CONTROL,
                        "to_name": OBJECT,
                        "type": "choices",
                        "value": {"choices": [view.label]},
                    }
                ],
            }
        ],
    }


class _User(msgspec.Struct):
    email: str | None = None
    id: int | None = None


class _Result(msgspec.Struct):
    type: str
    value: dict[str, Any] = {}
    from_name: str | None = None
    """Relations between regions have none."""


class _Annotation(msgspec.Struct):
    id: int | str
    result: list[_Result]
    completed_by: int | _User | None = None
    was_cancelled: bool = False
    unique_id: str | None = None
    """The same in every export and copy of the project; older exports lack it."""
    created_at: datetime | None = None
    updated_at: datetime | None = None


class _Data(msgspec.Struct):
    prediction_id: str
    text_id: str
    sampled: bool = False


class _Task(msgspec.Struct):
    data: _Data
    annotations: list[Any]


class Said(NamedTuple):
    """One annotation: somebody's word on a prediction."""

    place: str
    """Where it stands in the file, for people."""
    key: str
    """Its own id and its last change: read again it is the same word, changed in Label Studio it is a new one."""
    who: tuple[str, ...]
    """Names under which the file knows who it was: email, number."""
    prediction_id: str
    text_id: str
    label: Label
    sampled: bool
    at: int | None
    """When it was given, ms since the epoch, UTC."""


class Unfit(NamedTuple):
    """What can't be taken, and why."""

    place: str
    why: str


def read(content: bytes) -> Iterator[Said | Unfit]:
    """The words of an export in the format JSON; annotations that were skipped are passed over.

    Raises:
        Rejected: it is no such file at all.
    """
    try:
        found = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected("malformed", f"not an export of Label Studio in the format JSON: {error}") from None
    for number, entry in enumerate(found if isinstance(found, list) else [found], 1):
        given = entry.get("id") if isinstance(entry, dict) else None
        yield from _of_task(entry, f"task {number}" + (f" (id {given})" if given is not None else ""))


def _of_task(entry: Any, place: str) -> Iterator[Said | Unfit]:
    try:
        whole = msgspec.convert(entry, _Task)
    except msgspec.ValidationError as error:
        hint = "; is it an export in the format JSON, not JSON-MIN, of tasks from `tickerloop labels export`?"
        yield Unfit(place, f"{error}{hint}")
        return
    for number, raw in enumerate(whole.annotations, 1):
        where = f"{place}, annotation {number}"
        try:
            annotation = msgspec.convert(raw, _Annotation)
        except msgspec.ValidationError as error:
            yield Unfit(where, str(error))
            continue
        if not annotation.was_cancelled:
            yield _said(whole.data, annotation, f"{where} (id {annotation.id})")


def _said(data: _Data, annotation: _Annotation, place: str) -> Said | Unfit:
    chosen = [r.value.get("choices") for r in annotation.result if (r.type, r.from_name) == ("choices", CONTROL)]
    if len(chosen) != 1 or not isinstance(chosen[0], list) or len(chosen[0]) != 1:
        return Unfit(place, f"it has not exactly one choice named {CONTROL}; `tickerloop labels config` is the set-up")
    label = str(chosen[0][0]).casefold()
    if label not in LABELS:
        return Unfit(place, f"{chosen[0][0]!r} is no label; it takes {', '.join(LABELS)}")
    at = annotation.updated_at or annotation.created_at
    key = f"label-studio {annotation.unique_id or annotation.id} {at.isoformat() if at else ''}"
    who = _names(annotation.completed_by)
    when = None if at is None else int(at.timestamp() * 1000)
    return Said(place, key, who, data.prediction_id, data.text_id, label, data.sampled, when)


def _names(user: int | _User | None) -> tuple[str, ...]:
    if isinstance(user, _User):
        return tuple(str(name) for name in (user.email, user.id) if name is not None)
    return () if user is None else (str(user),)
