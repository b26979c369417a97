"""One training run in a process of its own, over a small part of the anchor set: `finetune_run.py METHOD`."""

from __future__ import annotations

import sys
from typing import Any

from services.settings import from_environment
from services.trainer import dataset, finetune
from services.trainer.anchors import anchors
from services.trainer.beside import low_priority
from services.trainer.run import train_once

ANCHORS = 60
EPOCHS = 3


def main(method: Any) -> None:
    dataset.anchors = lambda: anchors()[:ANCHORS]
    way = finetune.WAYS[method]
    finetune.WAYS = {method: way._replace(plan=way.plan._replace(epochs=EPOCHS, batch=4))}
    low_priority()
    print(train_once(from_environment(), "test", print, method=method).version, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
