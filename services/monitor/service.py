"""The monitor's process: the window module in the ordinary consumer loop, or on Kafka in a Faust app."""

from __future__ import annotations

from services.monitor import embedded
from services.monitor.windows import Rules
from services.runtime import Context


def serve(context: Context, rules: Rules | None = None) -> None:
    """Count until stopped.

    Raises:
        Fatal: see `services.stream.errors`.
        Transient: the servers are away at the start.
    """
    if context.settings.bus.startswith("kafka://"):
        from services.monitor import faust_app  # Faust takes a second to import, and one machine has no use for it

        faust_app.serve(context, rules or Rules())
    else:
        embedded.serve(context, rules or Rules())
