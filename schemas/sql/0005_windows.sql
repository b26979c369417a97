-- depends: 0004_state
-- What the monitor keeps. Everything is exact integers that only grow, so that sums don't depend on the order of events.

-- micros: sum of sentiments in millionths. partition: whose watermark closes the window.
-- revision = 2 n + closed: a function of what was counted, so it grows with every change and a redo gives it again.
ALTER TABLE window_minute
    ADD COLUMN micros    bigint NOT NULL DEFAULT 0,
    ADD COLUMN partition int NOT NULL DEFAULT 0;
CREATE INDEX window_open ON window_minute (partition, start) WHERE NOT closed;

-- Mentions that came after their window's lateness: counted here, never in the window.
CREATE TABLE late_mention (
    ticker text NOT NULL,
    start  bigint NOT NULL,
    n      bigint NOT NULL,
    PRIMARY KEY (ticker, start)
);

-- How far a source partition is counted, moved in the transaction that counts. seen: the last offset; watermark: ms.
-- source names the log ('embedded', or cluster/topic id), since another log's offsets mean other events.
CREATE TABLE monitor_partition (
    source    text NOT NULL,
    partition int NOT NULL,
    seen      bigint NOT NULL,
    watermark bigint NOT NULL,
    PRIMARY KEY (source, partition)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
