-- depends: 0010_keys
-- Kinds of words, and whom to believe. All times are milliseconds since the epoch, UTC.

-- role: what the speaker's key allowed when the word was given. Words from before it was kept go on to count in full.
-- withdraws: the word that a withdrawal takes back.
ALTER TABLE feedback ALTER COLUMN label DROP NOT NULL,
    ADD COLUMN flag text,
    ADD COLUMN withdraws text,
    ADD COLUMN role text NOT NULL DEFAULT 'local';
CREATE INDEX feedback_withdraws ON feedback (withdraws) WHERE withdraws IS NOT NULL;
CREATE INDEX feedback_text ON feedback (text_id);

ALTER TABLE example ALTER COLUMN label DROP NOT NULL,
    ADD COLUMN kind text NOT NULL DEFAULT 'correction',
    ADD COLUMN flag text,
    ADD COLUMN role text NOT NULL DEFAULT 'local';
CREATE INDEX example_withdrawn ON example (feedback_id) WHERE kind = 'withdrawal';

-- Answers to questions whose answer is known; they never become examples. gold: id in the shipped anchor set.
CREATE TABLE gold_answer (
    feedback_id text PRIMARY KEY,
    annotator   text NOT NULL,
    role        text NOT NULL,
    gold        text NOT NULL,
    label       text NOT NULL,
    "right"     boolean NOT NULL,
    given       bigint NOT NULL
);
CREATE INDEX gold_answer_annotator ON gold_answer (annotator);

-- Words set aside for a person to decide: they neither teach nor measure while held, and never once refused.
-- words: ids of examples. subject: what else the reason is about, such as a ticker; detail: the reason with its numbers.
CREATE TABLE quarantine (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    annotator  text NOT NULL,
    reason     text NOT NULL,
    subject    text NOT NULL,
    detail     text NOT NULL,
    words      text[] NOT NULL,
    state      text NOT NULL DEFAULT 'held' CHECK (state IN ('held', 'released', 'refused')),
    decided_by text,
    decided    bigint,
    found      bigint NOT NULL
);
CREATE UNIQUE INDEX quarantine_open ON quarantine (annotator, reason, subject) WHERE state = 'held';
