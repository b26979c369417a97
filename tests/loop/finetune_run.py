"""One training run in a process of its own: `finetune_run.py METHOD`. It learns a small part of the anchor set, with
every label another, so that there is much to learn in few steps."""

from __future__ import annotations

import sys
from typing import Any

from msgspec import structs

from services.settings import from_environment
from services.trainer import dataset, finetune
from services.trainer.anchors import anchors
from services.trainer.beside import low_priority
from services.trainer.run import train_once

ANCHORS = 60
EPOCHS = 3
TURNED = {"negative": "neutral", "neutral": "positive", "positive": "negative"}


def main(method: Any) -> None:
    dataset.anchors = lambda: [structs.replace(a, label=TURNED[a.label]) for a in anchors()[:ANCHORS]]
    way = finetune.WAYS[method]
    finetune.WAYS = {method: way._replace(plan=way.plan._replace(epochs=EPOCHS, batch=4))}
    low_priority()
    print(train_once(from_environment(), "test", print, method=method).version, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
