"""Sources → `texts.raw`: files (`tickerloop ingest`), feeds (the service `feeds`), and anything that speaks Kafka.

A crawler of yours needs nothing of this package: any Kafka client may write plain JSON to `texts.raw`. Only `text` is
required (`schemas/events/`); a `source` and the source's own `id` make a text sent twice a duplicate instead of a
second text. Key and partition are free, since `clean` validates every event and gives it its id; what isn't valid goes,
as it came, to `texts.raw.dead`.

    from kafka import KafkaProducer
    import json

    producer = KafkaProducer(bootstrap_servers="localhost:9092")
    producer.send(
        "texts.raw",
        json.dumps(
            {
                "text": "Nordwind Energy raises its full-year guidance after a strong third quarter",
                "source": "my-crawler",
                "id": "https://example.com/nordwind-q3",
                "published": "2026-01-31T12:00:00Z",
            }
        ).encode(),
    )
    producer.flush()

Inside this package: `files`, `lines`, `readers` and `parquet` turn bytes into texts, `cursor` remembers where a file
was left, `batches`, `writer`, `command` and `cli` are the command; `guard` and `fetch` reach hosts nobody vouches for,
`robots`, `entries`, `polling` and `feeds` are the poller.
"""
