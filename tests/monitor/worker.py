"""The monitor as a process of its own, to be killed. Settings come from the environment; arguments: slot, idle ms."""

from __future__ import annotations

import sys

from services.monitor.service import serve
from services.monitor.windows import Rules
from services.runtime import run
from services.settings import from_environment

slot, idle_ms = map(int, sys.argv[1:])
sys.exit(run(lambda context: serve(context, Rules(idle_ms=idle_ms)), from_environment(), "monitor", slot))
