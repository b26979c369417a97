-- depends: 0006_claim_age
-- position: the order in which words were taken; of one person's words on one prediction the last counts.
ALTER TABLE feedback ADD COLUMN position bigint GENERATED ALWAYS AS IDENTITY;

-- What people write beside a word. Free text: it is in no topic, and erasing it is deleting a row.
CREATE TABLE comment (
    feedback_id text PRIMARY KEY,
    body        text NOT NULL
);
INSERT INTO comment (feedback_id, body) SELECT feedback_id, comment FROM feedback WHERE comment IS NOT NULL;
ALTER TABLE feedback DROP COLUMN comment;
