-- depends: 0011_trust
-- Who is asked about what until when. A text has the places 1 to 3: its first reader's, and two for other opinions. Of a gold
-- question everyone has a place of their own, named as they are. A place that ran out is taken by the next who asks.
-- sampled: drawn at random, so that the word on it measures. passed: its holder would rather not say.
-- shown: what was made up around a gold question; its text is in the anchor set.
CREATE TABLE lease (
    prediction_id text NOT NULL,
    place         text NOT NULL,
    lease_id      text NOT NULL UNIQUE,
    text_id       text NOT NULL,
    annotator     text NOT NULL,
    why           text NOT NULL,
    sampled       boolean NOT NULL,
    given         bigint NOT NULL,
    expires       bigint NOT NULL,
    answered      bigint,
    passed        boolean NOT NULL DEFAULT false,
    shown         jsonb,
    PRIMARY KEY (prediction_id, place)
);
CREATE INDEX lease_annotator ON lease (annotator, expires);
CREATE INDEX IF NOT EXISTS feedback_text ON feedback (text_id);
