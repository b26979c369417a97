"""The relay's life: on Kafka, what sinks publish waits in the outbox and one relay sends it on in sequence."""

from __future__ import annotations

from services.runtime import Context
from services.stream.errors import Misconfigured
from services.stream.kafka.bus import KafkaBus


def serve(context: Context) -> None:
    """Run until stopped.

    Raises:
        Misconfigured: the bus is not Kafka; the embedded log needs no relay.
    """
    bus = context.bus()
    if not isinstance(bus, KafkaBus):
        raise Misconfigured("the relay is for Kafka; on the embedded bus sinks publish by themselves")
    context.state = "running"
    bus.relay(context.stop)
