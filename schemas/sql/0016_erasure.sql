-- depends: 0015_watched
-- What is forgotten on request, and how it is kept out. All times are milliseconds since the epoch, UTC.

-- Who an annotator is. Events and rows bear the pseudonym, which is random; a person is erased by deleting their row.
CREATE TABLE annotator (
    pseudonym text PRIMARY KEY,
    name      text NOT NULL UNIQUE,
    created   bigint NOT NULL
);

-- Keyed hashes of texts that are never taken again: of their id, of what was sent, of what was left after cleaning.
CREATE TABLE erased (
    hash bytea PRIMARY KEY
);
-- The hashes' key, beside them: it makes a copy of the table alone worthless to someone who guesses short texts.
CREATE TABLE erased_key (
    one   boolean PRIMARY KEY DEFAULT true CHECK (one),
    bytes bytea NOT NULL DEFAULT uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
);
INSERT INTO erased_key DEFAULT VALUES;

-- Each request that was carried out; no content. subjects: the ids of a text and of its copies, or a pseudonym.
-- versions: models that learned from it; inherited: those that were trained on from one of them.
-- retrain: null, 'asked', or what came of it.
CREATE TABLE erasure (
    erasure   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind      text NOT NULL CHECK (kind IN ('text', 'annotator')),
    subjects  text[] NOT NULL,
    actor     text NOT NULL,
    at        bigint NOT NULL,
    counts    jsonb NOT NULL,
    versions  text[] NOT NULL,
    inherited text[] NOT NULL,
    gone_by   bigint,
    retrain   text
);

-- As before, and none of someone who was erased.
CREATE OR REPLACE FUNCTION kept_words(partitions int[], nexts bigint[]) RETURNS TABLE (
    example_id text, "position" bigint, prediction_id text, text_id text, cluster text, kind text, predicted text,
    label text, flag text, model text, epoch bigint, role text, sampled boolean, holdout boolean, given bigint, who text
) LANGUAGE sql STABLE AS '
    SELECT e.example_id, e.position, e.prediction_id, e.text_id, e.cluster, e.kind, e.predicted, e.label, e.flag, e.model,
        e.epoch, e.role, e.sampled, e.holdout, e.given, CASE e.role WHEN ''local'' THEN ''local'' ELSE e.annotator END
    FROM examples_before(partitions, nexts) e
    WHERE e.kind <> ''withdrawal''
        AND e.annotator NOT IN (SELECT unnest(f.subjects) FROM erasure f WHERE f.kind = ''annotator'') AND NOT EXISTS (
        SELECT 1 FROM examples_before(partitions, nexts) w WHERE w.kind = ''withdrawal'' AND w.feedback_id = e.feedback_id)';

-- A comment may come before its word is stored: so it says itself what it is about and whose it is.
ALTER TABLE comment ADD COLUMN text_id text, ADD COLUMN annotator text;
UPDATE comment c SET text_id = f.text_id, annotator = f.annotator FROM feedback f WHERE f.feedback_id = c.feedback_id;

-- ANALYZE copies values into pg_statistic, texts among them: not of these columns. A change of type, to the same one,
-- drops what it has copied so far.
ALTER TABLE text ALTER COLUMN body TYPE text, ALTER COLUMN url TYPE text, ALTER COLUMN external_id TYPE text,
    ALTER COLUMN body SET STATISTICS 0, ALTER COLUMN url SET STATISTICS 0, ALTER COLUMN external_id SET STATISTICS 0;
ALTER TABLE comment ALTER COLUMN body TYPE text, ALTER COLUMN body SET STATISTICS 0;
ALTER TABLE log.chunk ALTER COLUMN payload TYPE bytea, ALTER COLUMN payload SET STATISTICS 0;
ALTER TABLE log.outbox ALTER COLUMN value TYPE bytea, ALTER COLUMN value SET STATISTICS 0,
    ALTER COLUMN headers TYPE bytea, ALTER COLUMN headers SET STATISTICS 0;
ALTER TABLE annotator ALTER COLUMN name SET STATISTICS 0;
ALTER TABLE api_key ALTER COLUMN name TYPE text, ALTER COLUMN name SET STATISTICS 0;
