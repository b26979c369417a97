"""Fine-tuning: the champion's encoder learns on from its adapter and its head. The head is fitted at last, by the
caller, on the features as they are served: of low rank and in int8. Importing this imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import msgspec

from services.score.base import EXPORT, Encoding
from services.score.device import cores
from services.score.engine import Engine
from services.score.head import Head
from services.settings import Method, Settings
from services.trainer import manifest
from services.trainer.checkpoint import Checkpoint, State
from services.trainer.dataset import Dataset
from services.trainer.head import torch_threads
from services.trainer.learner import Tuned
from services.trainer.lesson import Lesson, edited, to_tune, watched
from services.trainer.progress import Stage
from services.trainer.search import Trial, search
from services.trainer.tune import RANK, Plan, Progress, tune

WAYS: Final[Mapping[Method, Trial]] = {
    "lora": Trial(Plan(rank=8, rate=1e-3)),
    "full": Trial(Plan(rate=5e-5)),
}


def tunable(engine: Engine) -> bool:
    """Whether there are an adapter and a head to learn on from: a classifier of one's own has neither."""
    return engine.runtime.encoding.export == EXPORT and isinstance(engine.model.head, Head)


def finetuned(
    engine: Engine,
    data: Dataset,
    taught: Lesson,
    method: Method,
    seed: int,
    settings: Settings,
    report: Callable[[Stage], None],
    say: Callable[[str], None],
    trials: int = 0,
) -> tuple[Encoding, Head]:
    """The champion's encoder and head as they are after a run, or as they were, where that is best on what is watched.

    A run that was killed is gone on with: see `Checkpoint`. With `trials`, so many ways are tried first.
    """
    run = _Run(engine, data, taught, method, seed, settings, report)
    way = search(WAYS[method], trials, seed, run.loss, say) if trials else WAYS[method]
    tuned = run.tuned(way, "tuning", run.checkpoint(way))
    say(f"the best on {sum(run.apart)} watched texts was after epoch {tuned.epoch} of {way.plan.epochs}")
    own = engine.runtime.encoding
    return (Encoding(own.base, tuned.adapter(RANK)) if tuned.epoch else own), tuned.head


def default_threads() -> int:
    """Torch's, where the settings name none: half of the cores, and so one of two, with the rest for the scorers."""
    return max(1, cores() // 2)


class _Run:
    """What stays the same over all trials of a run."""

    def __init__(
        self,
        engine: Engine,
        data: Dataset,
        taught: Lesson,
        method: Method,
        seed: int,
        settings: Settings,
        report: Callable[[Stage], None],
    ) -> None:
        self._engine, self._taught, self._method, self._seed = engine, taught, method, seed
        self._settings, self._report = settings, report
        self._people, self._anchors = len(data.learn), len(data.replay)
        self.apart = watched(data)
        self._made_of = {
            "dataset": manifest.of(data).hash, "parent": engine.card.version, "seed": seed, "device": engine.device,
            "threads": settings.threads,
        }  # fmt: skip
        self._journal = self.checkpoint("search")

    def checkpoint(self, way: object) -> Checkpoint:
        """The one of tuning this way."""
        made_of = {**self._made_of, "way": way}
        return Checkpoint(self._settings.data_folder, made_of, self._settings.checkpoint_s)

    def tuned(self, way: Trial, stage: str, keep: Checkpoint | None = None) -> Tuned:
        """What comes of tuning this way."""
        own, head = self._engine.runtime.encoding, self._engine.model.head
        assert isinstance(head, Head)  # noqa: S101 (see `tunable`)
        learn = to_tune(self._taught, self.apart, self._people, self._anchors, way.replay)
        with torch_threads(self._settings.threads or default_threads()):
            return tune(
                own.base, head, edited(learn) if way.augmented else learn, plan=way.plan, seed=self._seed,
                adapter=own.adapter, watched=self._taught.part(self.apart), device=self._engine.device,
                checkpoint=keep, progress=partial(self._tell, stage),
            )  # fmt: skip

    def loss(self, way: Trial) -> float:
        """On what is watched; remembered, so that a search that was killed loses one trial at most."""
        name = msgspec.json.encode(way).decode()
        kept = self._journal.load()
        known = dict(kept.facts) if kept else {}
        if name not in known:
            known[name] = self.tuned(way, "searching").loss
            self._journal.save(State({}, known))
        return float(known[name])

    def _tell(self, stage: str, at: Progress) -> None:
        self._report(Stage(stage, self._method, at.step, at.steps, round(at.loss, 3), round(at.seconds_left)))
