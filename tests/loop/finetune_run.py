"""One training run in a process of its own: `finetune_run.py METHOD EPOCHS`. It learns a small part of the anchor set,
with every label another, so that there is much to learn in few steps."""

from __future__ import annotations

import sys
from typing import Any

from msgspec import structs

from services.settings import from_environment
from services.trainer import dataset, finetune
from services.trainer.anchors import anchors
from services.trainer.run import train_once

ANCHORS = 60
TURNED = {"negative": "neutral", "neutral": "positive", "positive": "negative"}


def main(method: Any, epochs: int) -> None:
    dataset.anchors = lambda: [structs.replace(a, label=TURNED[a.label]) for a in anchors()[:ANCHORS]]
    way = finetune.WAYS[method]
    plan = way.plan._replace(epochs=epochs, batch=4, patience=epochs)
    finetune.WAYS = {method: way._replace(plan=plan)}
    print(train_once(from_environment(), "test", print, method=method).version, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
