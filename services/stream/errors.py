"""What can go wrong, in one tree.

TickerloopError
├── Rejected      this event is bad: it goes to its topic's `.dead`, with the reason, and can be replayed
├── Transient     try again with backoff: a lost server, a deadlock, a row another service has yet to write
│   └── Fenced    another member owns the partition now: drop it, its new owner redoes the work
└── Fatal         stop uncommitted and exit non-zero; the supervisor restarts the service
    ├── Truncated     the position lies before what retention kept
    ├── SlotTaken     another live process runs under this service's slot
    ├── Tripped       our own code failed too often: `tickerloop dlq resume` clears it
    └── Misconfigured a setting, file or server is not as it must be; the message says what to do
"""

from __future__ import annotations


class TickerloopError(Exception):
    """Base of every error this project raises on purpose."""


class Rejected(TickerloopError):
    """This one event is bad. `reason` is a stable word for machines, `detail` a sentence for people."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class Transient(TickerloopError):
    """The same call may succeed later."""


class Fenced(Transient):
    """The partition has another owner; whatever this one computed for it must not be committed."""


class Fatal(TickerloopError):
    """The process must stop without committing."""


class Truncated(Fatal):
    """A reader's position lies before the oldest kept offset."""


class SlotTaken(Fatal):
    """Two live processes claim one slot of a service."""


class Tripped(Fatal):
    """Failures of our own code passed the limit; going on would throw a topic away."""


class Misconfigured(Fatal):
    """A setting, file or server is not as it must be; the message says how to mend it."""
