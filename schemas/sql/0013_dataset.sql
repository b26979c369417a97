-- depends: 0012_review
-- What a run learned from, and why one was begun or not. Ids only: no text.

-- Where an example lies in training.examples: up to there a dataset can be read again. Null in rows older than this.
ALTER TABLE example
    ADD COLUMN log_partition int,
    ADD COLUMN log_offset    bigint;

-- The examples before a cut: of partition partitions[i] those below offset nexts[i]. NULL: all there are.
CREATE FUNCTION examples_before(partitions int[], nexts bigint[]) RETURNS SETOF example LANGUAGE sql STABLE AS '
    SELECT e.* FROM example e LEFT JOIN unnest(partitions, nexts) AS cut (log_partition, next) USING (log_partition)
    WHERE partitions IS NULL OR e.log_partition IS NULL OR e.log_offset < cut.next';
-- Words that weren't withdrawn. who: one annotator, as whom all names count that were given without keys.
CREATE FUNCTION kept_words(partitions int[], nexts bigint[]) RETURNS TABLE (
    example_id text, "position" bigint, prediction_id text, text_id text, cluster text, kind text, predicted text,
    label text, flag text, model text, epoch bigint, role text, sampled boolean, holdout boolean, given bigint, who text
) LANGUAGE sql STABLE AS '
    SELECT e.example_id, e.position, e.prediction_id, e.text_id, e.cluster, e.kind, e.predicted, e.label, e.flag, e.model,
        e.epoch, e.role, e.sampled, e.holdout, e.given, CASE e.role WHEN ''local'' THEN ''local'' ELSE e.annotator END
    FROM examples_before(partitions, nexts) e
    WHERE e.kind <> ''withdrawal'' AND NOT EXISTS (
        SELECT 1 FROM examples_before(partitions, nexts) w WHERE w.kind = ''withdrawal'' AND w.feedback_id = e.feedback_id)';
-- Labels that count: each annotator's last on a story.
CREATE FUNCTION words(partitions int[], nexts bigint[]) RETURNS TABLE (
    example_id text, "position" bigint, prediction_id text, text_id text, cluster text, kind text, predicted text,
    label text, flag text, model text, epoch bigint, role text, sampled boolean, holdout boolean, given bigint, who text
) LANGUAGE sql STABLE AS '
    SELECT DISTINCT ON (k.cluster, k.who) k.* FROM kept_words(partitions, nexts) k WHERE k.label IS NOT NULL
    ORDER BY k.cluster, k.who, k.given DESC, k.position DESC';
CREATE VIEW kept_word AS SELECT * FROM kept_words(NULL, NULL);
CREATE VIEW word AS SELECT * FROM words(NULL, NULL);

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
