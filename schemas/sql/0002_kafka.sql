-- depends: 0001_log
-- What a step on Kafka keeps in PostgreSQL, so that its rows and its offsets are one effect.

CREATE SCHEMA IF NOT EXISTS log;

-- Where a sinking group stands. Advanced by compare-and-set only. Cluster and topic id belong to the key: a topic made anew
-- under an old name, or another cluster, starts from its beginning.
CREATE TABLE log.sink_position (
    cluster   text NOT NULL,
    topic_id  text NOT NULL,
    partition int NOT NULL,
    grp       text NOT NULL,
    topic     text NOT NULL,
    position  bigint NOT NULL,
    mark      text NOT NULL DEFAULT '',
    PRIMARY KEY (cluster, topic_id, partition, grp)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Events that committed with rows and wait for the relay. headers: MessagePack array of [name, value].
CREATE TABLE log.outbox (
    seq       bigint PRIMARY KEY,
    topic     text NOT NULL,
    partition int,
    key       bytea NOT NULL,
    value     bytea NOT NULL,
    headers   bytea NOT NULL,
    created   timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- The next seq. Its row lock is held until the commit, so that commit order is seq order and the relay never meets a hole.
-- epoch names this database: a relay's mark from another one must not make it skip.
CREATE TABLE log.outbox_head (
    one   boolean PRIMARY KEY DEFAULT true CHECK (one),
    next  bigint NOT NULL DEFAULT 1,
    epoch uuid NOT NULL DEFAULT gen_random_uuid()
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
INSERT INTO log.outbox_head DEFAULT VALUES;
