"""The broker that the Kafka tests share."""

from kafka_broker import kafka_broker

__all__ = ["kafka_broker"]
