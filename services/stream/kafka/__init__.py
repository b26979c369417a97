"""The bus on Apache Kafka.

`client` is all that touches kafka-python. `transactions` publishes, `member` belongs to a group, `consumer` puts the
two together into a step; `positions`, `outbox` and `journal` are where a step's place and its events wait.
"""

from services.stream.kafka.bus import KafkaBus

__all__ = ["KafkaBus"]
