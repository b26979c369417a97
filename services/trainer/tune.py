"""Tune an encoder and its head together, and keep what changed as an adapter of low rank.

The head comes fitted on the untouched encoder: from a fresh one, the first steps would distort what the base knows
(Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features"). Every layer learns all its weights, or a change of
low rank; of each matrix's change the nearest one of low rank is kept. Importing this imports torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
import torch
from torch.nn.functional import log_softmax

from services.score.adapter import Adapter
from services.score.base import Base
from services.score.head import Head
from services.score.tokens import Tokenizer
from services.stream.errors import Rejected
from services.trainer.checkpoint import Checkpoint, State
from services.trainer.head import seeded
from services.trainer.learner import NO_ADAPTER, Learner, Tuned
from services.trainer.lesson import Lesson
from services.trainer.sampler import Place, Sampler

RANK: Final = 64
"""Of an adapter that is kept."""


class Plan(NamedTuple):
    """How long, how far and how fast. Rates rise over the first `warmup` of all steps and fall linearly to nought."""

    epochs: int = 4
    batch: int = 32
    parts: int = 1
    """In which a batch goes through the encoder, its gradients added up: less memory, the same step."""
    rank: int = 0
    """Of the change that each matrix learns; 0 learns all weights. See `Learner`."""
    rate: float = 1.5e-4
    """Of the last layer."""
    layer_decay: float = 0.9
    """The rate of each layer, as a share of the one above it (Howard & Ruder 2018): what is general is below."""
    head_rate: float = 1e-3
    warmup: float = 0.06
    decay: float = 0.01
    dropout: float = 0.1
    """Of the features and the hidden units."""
    smoothing: float = 0.05
    """See `smoothed`."""
    patience: int = 1
    """Epochs in a row without a better loss on what is watched that end the run; without texts to watch none do."""


class Progress(NamedTuple):
    """After a step."""

    step: int
    steps: int
    loss: float
    """Mean over the last steps."""
    seconds_left: float
    """At most: a run that stops early takes less."""


def tune(
    base: Base,
    head: Head,
    lesson: Lesson,
    *,
    plan: Plan,
    seed: int,
    adapter: Adapter = NO_ADAPTER,
    watched: Lesson | None = None,
    device: str = "cpu",
    checkpoint: Checkpoint | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    after_epoch: Callable[[Tuned], None] = lambda _: None,
) -> Tuned:
    """Minimise the weighted mean cross-entropy between targets and answers.

    Args:
        base: the encoder, left as it is.
        head: where the head starts; its standardisation is kept.
        lesson: what is learned.
        plan: see `Plan`.
        seed: of the initial changes, the order of the texts and the dropout.
        adapter: what the encoder has learned before; none starts from the base.
        watched: texts apart from the lesson: after each epoch the loss on them is taken. What was best on them is
            returned, which may be the start, and `plan.patience` ends the run early.
        device: `cpu` or `cuda`; either computes in bf16 where the processor can.
        checkpoint: where to write every so often how far it is, and to go on from, as if it had never been away.
        progress: told after every step.
        after_epoch: told what there is after each epoch.

    Raises:
        Rejected: a text can't be tokenised.
    """
    with seeded(seed):
        course = _Course(Learner(base, adapter, head, plan.rank).to(device), base, lesson, watched, plan, device)
        if checkpoint and (state := checkpoint.load()):
            course.restore(state)
        began, first = time.monotonic(), course.step
        while not course.over:
            for batch in course.sampler:
                course.learn(batch)
                done, left = course.step - first, course.steps - course.step
                progress(Progress(course.step, course.steps, course.loss, (time.monotonic() - began) / done * left))
                if checkpoint and checkpoint.due:
                    checkpoint.save(course.state())
            course.end_epoch()
            after_epoch(course.module.tuned())
        if checkpoint:
            checkpoint.save(course.state())
        return course.best()


def smoothed(targets: np.ndarray, share: float) -> np.ndarray:
    """Of float32[n, k] targets `share` spread over all labels (Szegedy et al. 2016): labels err."""
    spread: np.ndarray = (1 - share) * targets + share / targets.shape[1]
    return spread


def soup(runs: Sequence[Tuned]) -> Tuned:
    """The average of runs from one start (Wortsman et al. 2022, "Model soups")."""
    changes = {name: np.stack([run.changes[name] for run in runs]).mean(axis=0) for name in runs[0].changes}
    parts = zip(*(run.head for run in runs), strict=True)
    return Tuned(changes, Head(*(np.stack(part).mean(axis=0) for part in parts)))


class _Course:
    """A run under way. `state` is all that decides how it goes on."""

    def __init__(
        self, module: Learner, base: Base, lesson: Lesson, watched: Lesson | None, plan: Plan, device: str
    ) -> None:
        self.module, self._plan, self._device = module, plan, device
        self._lesson = _Batched(base, lesson._replace(targets=smoothed(lesson.targets, plan.smoothing)), device)
        self._watched = _Batched(base, watched, device) if watched and watched.texts else None
        self.sampler = Sampler(self._lesson.lengths, plan.batch)
        self.sampler.begin()
        self.steps = plan.epochs * -(-len(self._lesson.lengths) // plan.batch)
        self.step = self._epoch = 0
        self.loss = 0.0
        self._optimizer = torch.optim.AdamW(
            [
                *(
                    {"params": parameters, "lr": plan.rate * plan.layer_decay**depth}
                    for depth, parameters in enumerate(module.layers())
                ),
                {"params": list(module.learned), "lr": plan.head_rate},
            ],
            weight_decay=plan.decay,
        )
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        self._best_loss, self._best_epoch = self._watch(), 0
        self._best = self._now()

    @property
    def over(self) -> bool:
        """Whether the last epoch is done, or enough of them brought nothing."""
        waited = self._epoch - self._best_epoch
        return self._epoch == self._plan.epochs or (self._watched is not None and waited >= self._plan.patience)

    def learn(self, batch: Sequence[int]) -> None:
        """One step."""
        share = min(
            (self.step + 1) / (self._plan.warmup * self.steps),
            (self.steps - self.step) / (self.steps * (1 - self._plan.warmup)),
        )
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * share
        self.module.train()
        self._optimizer.zero_grad()
        total = 0.0
        size = -(-len(batch) // self._plan.parts)
        for at in range(0, len(batch), size):
            loss = self._lesson.loss(self.module, batch[at : at + size], self._plan.dropout) / len(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self._optimizer.step()
        self.step += 1
        self.loss += (total - self.loss) / min(self.step, 100)

    def end_epoch(self) -> None:
        """Look at what is watched, and draw the next epoch's order."""
        self._epoch += 1
        loss = self._watch()
        if self._watched is None or loss < self._best_loss:
            self._best_loss, self._best_epoch, self._best = loss, self._epoch, self._now()
        self.sampler.begin()

    def best(self) -> Tuned:
        """What was best on what is watched; what there is at last, where nothing is."""
        self.module.take(self._best)
        return self.module.tuned()._replace(epoch=self._best_epoch, loss=self._best_loss)

    def _watch(self) -> float:
        if self._watched is None:
            return 0.0
        self.module.eval()
        with torch.inference_mode():
            sums = [
                self._watched.loss(self.module, batch, 0.0).item() for batch in self._watched.batches(self._plan.batch)
            ]
        return sum(sums) / len(self._watched.lengths)

    def _now(self) -> dict[str, torch.Tensor]:
        return {name: part.detach().clone() for name, part in self.module.learning().items()}

    def state(self) -> State:
        """See the class."""
        tensors = {f"now.{name}": part for name, part in self._now().items()}
        tensors |= {f"best.{name}": part for name, part in self._best.items()}
        for number, moments in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": moment for name, moment in moments.items()}
        tensors["random.cpu"] = torch.get_rng_state()
        if self._device == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        facts = {
            "step": self.step, "epoch": self._epoch, "loss": self.loss, "best_loss": self._best_loss,
            "best_epoch": self._best_epoch, "place": self.sampler.place,
        }  # fmt: skip
        return State(tensors, facts)

    def restore(self, state: State) -> None:
        """Go back to what `state` told."""
        self.module.take(_below("now", state.tensors))
        self._best = {name: part.to(self._device) for name, part in _below("best", state.tensors).items()}
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, moment in _below("optimizer", state.tensors).items():
            number, _, kind = name.partition(".")
            moments.setdefault(int(number), {})[kind] = moment
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        torch.set_rng_state(state.tensors["random.cpu"])
        if self._device == "cuda":
            torch.cuda.set_rng_state(state.tensors["random.cuda"])
        facts = state.facts
        self.step, self._epoch, self.loss = facts["step"], facts["epoch"], facts["loss"]
        self._best_loss, self._best_epoch = facts["best_loss"], facts["best_epoch"]
        self.sampler.place = msgspec.convert(facts["place"], Place)


def _below(first: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those whose names begin with this word, without it."""
    return {name.partition(".")[2]: part for name, part in tensors.items() if name.partition(".")[0] == first}


class _Batched:
    """A lesson as tokens and tensors."""

    def __init__(self, base: Base, lesson: Lesson, device: str) -> None:
        self._ids = _tokens(base, lesson.texts)
        self._y = torch.from_numpy(lesson.targets).float()
        self._w = torch.from_numpy((lesson.weights / lesson.weights.mean()).astype(np.float32))
        self._device = device
        self.lengths = [len(found) for found in self._ids]

    def loss(self, module: Learner, batch: Sequence[int], dropout: float) -> torch.Tensor:
        """The weighted cross-entropy, summed over the batch."""
        device = self._device
        inputs = (part.to(device) for part in _padded([self._ids[i] for i in batch]))
        with torch.autocast(device, torch.bfloat16, enabled=_bf16(device)):
            answers = module(*inputs, dropout)
        return -(self._y[batch].to(device) * log_softmax(answers.float(), 1)).sum(1) @ self._w[batch].to(device)

    def batches(self, size: int) -> Iterator[list[int]]:
        """Every index once, by length."""
        order = sorted(range(len(self.lengths)), key=self.lengths.__getitem__)
        return (order[at : at + size] for at in range(0, len(order), size))


def _bf16(device: str) -> bool:
    """Whether the processor has products in bf16; emulated, they are slower than those in fp32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _tokens(base: Base, texts: Sequence[str]) -> list[list[int]]:
    ids = []
    for found in Tokenizer(base.folder)(texts):
        if isinstance(found, Rejected):
            raise found
        ids.append(found.ids)
    return ids


def _padded(ids: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """int64[n, t] twice: ids and mask."""
    width = max(map(len, ids))
    padded = torch.zeros(len(ids), width, dtype=torch.int64)
    mask = torch.zeros_like(padded)
    for row, found in enumerate(ids):
        padded[row, : len(found)] = torch.tensor(found)
        mask[row, : len(found)] = 1
    return padded, mask
