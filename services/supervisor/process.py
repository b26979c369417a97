"""One child process: started, found dead, stopped; it dies with its parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from services.stream.errors import Misconfigured

PR_SET_PDEATHSIG: Final = 1
SERVICE_USERS: Final = ("postgres", "nobody")
"""Whom root starts PostgreSQL as: it refuses to run as root."""

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(sig: int) -> None:
    """Ask the kernel for `sig` when the parent dies (Linux; elsewhere the supervisor's own exit handler must do)."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, sig)


def service_user() -> pwd.struct_passwd | None:
    """The user to drop to; None where we are not root.

    Raises:
        Misconfigured: root, but none of the usual service users exists.
    """
    if os.geteuid() != 0:
        return None
    for name in SERVICE_USERS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise Misconfigured("PostgreSQL can't run as root and there is no user postgres or nobody; run as another user")


def reachable(path: Path, user: pwd.struct_passwd) -> bool:
    """Whether `user` may pass through every folder above `path`, by the folders' modes."""
    for folder in path.resolve().parents:
        stat = folder.stat()
        needed = 0o100 if stat.st_uid == user.pw_uid else 0o010 if stat.st_gid == user.pw_gid else 0o001
        if not stat.st_mode & needed:
            return False
    return True


class Child:
    """A child process with a log file. `stop_signal` asks it to finish what it holds and exit."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        standard_input: bytes = b"",
        user: pwd.struct_passwd | None = None,
        stop_signal: int = signal.SIGTERM,
        death_signal: int = signal.SIGTERM,
    ) -> None:
        self.name, self.log, self._stop_signal = name, log, stop_signal
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self.process = subprocess.Popen(  # noqa: S603 (commands are our own)
                list(command),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                user=user.pw_uid if user else None,
                group=user.pw_gid if user else None,
                extra_groups=[] if user else None,
                preexec_fn=lambda: die_with_parent(death_signal),
            )
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), self.process.stdin as pipe:
                pipe.write(standard_input)

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self.process.poll() is None

    def ask_to_stop(self) -> None:
        """Send the stop signal; returns at once."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(self._stop_signal)

    def stop(self, seconds: float = 20.0) -> int:
        """Ask, wait, then kill; the exit code."""
        self.ask_to_stop()
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def last_lines(self, count: int = 20) -> str:
        """The end of its log, for an error message."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 8_000))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-count:])
