-- depends: 0010_keys
-- What a run learned from, and why one was begun or not. Ids only: no text.

-- Where an example lies in training.examples: up to there a dataset can be read again. Null in rows older than this.
ALTER TABLE example
    ADD COLUMN log_partition int,
    ADD COLUMN log_offset    bigint;

-- position: as elsewhere, a number that grows in the order rows were stored.
ALTER TABLE text ADD COLUMN position bigint GENERATED ALWAYS AS IDENTITY;

-- content: JSON, compressed by zlib. hash: SHA-256 over what is learned from and measured; equal datasets are one row.
CREATE TABLE manifest (
    hash    text PRIMARY KEY,
    content bytea STORAGE EXTERNAL NOT NULL,
    created bigint NOT NULL
);
ALTER TABLE training_run ADD COLUMN manifest text;

-- Every text that a run has learned from, and the first run that did: it may never measure.
CREATE TABLE learned_text (
    text_id text PRIMARY KEY,
    run     bigint NOT NULL
);

-- Each look at the triggers that came to another answer than the one before, and one every few minutes; the newest only.
CREATE TABLE trigger_evaluation (
    evaluation bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         bigint NOT NULL,
    train      boolean NOT NULL,
    trigger    text NOT NULL,
    holds      text[] NOT NULL,
    reason     text NOT NULL,
    numbers    jsonb NOT NULL
);

-- The first and the newest predictions of a champion, to compare.
CREATE INDEX prediction_epoch ON prediction (epoch, position);
