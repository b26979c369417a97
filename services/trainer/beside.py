"""A training run beside scoring: a process of its own at low priority, which dies with the trainer.

`python -m services.trainer.beside TRIGGER [ORIGIN]` is that process.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from contextlib import closing
from typing import Final

from services.runtime import EXIT_FATAL, Context, configure_logging
from services.settings import Settings, from_environment
from services.stream.database import transaction
from services.stream.errors import TickerloopError
from services.supervisor.process import die_with_parent
from services.trainer.progress import EVERY_S, under_way

NICE: Final = 10
"""Added to a run's niceness. Linux gives such a process a tenth of what an ordinary one gets, where both want a core;
where nobody else wants it, all of it."""

log = logging.getLogger("services.trainer.beside")  # as a process of its own it has another __name__


def low_priority() -> None:
    """For this process, for good."""
    os.nice(NICE)


def train(context: Context, trigger: str, origin: str | None = None) -> bool:
    """Run one to its end, showing how far it is; False where it failed, and said why. A stop of the service ends it
    there and then: the next goes on from its checkpoint.
    """
    child = start(context.settings, trigger, origin)
    shown = context.detail
    try:
        with closing(context.connect()) as connection:
            while child.poll() is None and not context.stop.wait(EVERY_S):
                with transaction(connection), connection.cursor() as cursor:
                    training = under_way(cursor)
                context.detail = shown | ({"training": training.detail} if training else {})
    finally:
        context.detail = shown
        child.kill()
        code = child.wait()
    return code == 0 or context.stop.is_set()


def start(settings: Settings, trigger: str, origin: str | None = None) -> subprocess.Popen[bytes]:
    """The process, which is killed when this one dies; what it says goes where ours does."""
    return subprocess.Popen(  # noqa: S603 (our own)
        [sys.executable, "-m", "services.trainer.beside", trigger, *([origin] if origin else [])],
        env=os.environ | settings.environment(),
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: die_with_parent(signal.SIGKILL),
    )


def main(trigger: str, origin: str | None = None) -> int:
    """Train; the exit code."""
    low_priority()
    settings = from_environment()
    configure_logging("training", settings.log_level)
    from services.trainer.run import train_once  # imports torch, which the trainer itself does without

    try:
        train_once(settings, trigger, log.info, origin=origin)
    except TickerloopError as error:
        log.error("%s", error)
        return EXIT_FATAL
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
