"""Every metric, declared with its meaning before it is used. Prometheus names; seconds and counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

EVENTS = Counter("tickerloop_events", "Events a consumer group has processed and committed", ["group"])
RETRIES = Counter("tickerloop_retries", "Batches given back after a transient failure", ["group"])
DEAD_LETTERS = Counter("tickerloop_dead_letters", "Events sent to a dead-letter topic", ["group", "reason"])
STEP_SECONDS = Histogram("tickerloop_step_seconds", "One batch: the step and its commit", ["group"])
RELAYED = Counter("tickerloop_relayed", "Outbox events published to Kafka")

ACCEPTED = Counter("tickerloop_accepted", "Texts taken by the gateway, durable when counted")
REFUSED = Counter("tickerloop_refused", "Requests refused by the gateway", ["status"])
STREAMS = Gauge("tickerloop_streams", "Live event streams open", multiprocess_mode="livesum")

SCORED = Counter("tickerloop_scored", "Texts scored", ["model"])
SHADOW_SCORED = Counter("tickerloop_shadow_scored", "Texts scored by a shadow and published", ["model"])
SHADOW_DROPPED = Counter(
    "tickerloop_shadow_dropped",
    "Texts that a shadow left out: busy with others, or failed on them",
    ["model", "reason"],
)
BATCH_TEXTS = Histogram(
    "tickerloop_batch_texts", "Texts per model call", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
)
EPOCH = Gauge("tickerloop_epoch", "Ledger sequence of the model in service", multiprocess_mode="max")
SWAPS = Counter("tickerloop_swaps", "Model swaps done by a scorer", ["outcome"])
