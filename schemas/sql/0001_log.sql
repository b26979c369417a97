-- The embedded log: topic × partition × offset, as Kafka has them. Events are stored in chunks (one row per publish and
-- partition), so that a backlog costs a row per hundreds of events and retention deletes few rows.

CREATE SCHEMA IF NOT EXISTS log;

CREATE TABLE log.topic (
    topic        text PRIMARY KEY,
    partitions   int NOT NULL CHECK (partitions > 0),
    retention_ms bigint,
    max_bytes    int NOT NULL
);

-- One row per partition. Its lock is what makes commit order offset order; it is taken last and held for the commit only.
CREATE TABLE log.head (
    topic      text NOT NULL REFERENCES log.topic,
    partition  int NOT NULL,
    oldest     bigint NOT NULL DEFAULT 0,
    next       bigint NOT NULL DEFAULT 0,
    at_ms      bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- payload: MessagePack array of [key, value, headers]; all events of a chunk arrived at at_ms.
CREATE TABLE log.chunk (
    topic     text NOT NULL,
    partition int NOT NULL,
    last      bigint NOT NULL,
    first     bigint NOT NULL,
    at_ms     bigint NOT NULL,
    size      int NOT NULL,
    payload   bytea STORAGE EXTERNAL NOT NULL,
    PRIMARY KEY (topic, partition, last)
);
CREATE INDEX chunk_at ON log.chunk (topic, partition, at_ms);

-- Where a group stands, and who may move it: each new owner bumps generation, each commit compares position and generation.
CREATE TABLE log.position (
    grp        text NOT NULL,
    topic      text NOT NULL,
    partition  int NOT NULL,
    position   bigint NOT NULL DEFAULT 0,
    generation bigint NOT NULL DEFAULT 0,
    mark       text NOT NULL DEFAULT '',
    PRIMARY KEY (grp, topic, partition)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Live members of groups. work_pid is the backend that holds the partitions' locks.
CREATE TABLE log.member (
    grp      text NOT NULL,
    slot     int NOT NULL,
    token    text NOT NULL,
    work_pid int NOT NULL,
    beat     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (grp, slot)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Appends one chunk per (topic, partition); arrays run in parallel. Heads are locked in one order by one statement, so that
-- appends can't deadlock. Arrival time never runs backwards within a partition.
CREATE FUNCTION log.append(topics text[], partitions int[], counts int[], payloads bytea[])
RETURNS TABLE (topic text, partition int, first bigint)
LANGUAGE sql AS '
    WITH added AS (
        SELECT a.topic, a.partition, a.count, a.payload
        FROM unnest(topics, partitions, counts, payloads) AS a (topic, partition, count, payload)
    ), locked AS (
        SELECT h.topic, h.partition FROM log.head h
        WHERE (h.topic, h.partition) IN (SELECT a.topic, a.partition FROM added a)
        ORDER BY h.topic, h.partition FOR UPDATE
    ), moved AS (
        UPDATE log.head h
        SET next = h.next + a.count,
            at_ms = greatest(h.at_ms, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint)
        FROM locked l JOIN added a USING (topic, partition)
        WHERE h.topic = l.topic AND h.partition = l.partition
        RETURNING h.topic, h.partition, h.next - a.count AS first, h.next - 1 AS last, h.at_ms, a.payload
    )
    INSERT INTO log.chunk (topic, partition, last, first, at_ms, size, payload)
    SELECT m.topic, m.partition, m.last, m.first, m.at_ms, octet_length(m.payload), m.payload FROM moved m
    RETURNING chunk.topic, chunk.partition, chunk.first
';
