-- depends: 0001_log
-- What the clean service has seen: which record a text id belongs to, and which text stands for a story.
-- Times are milliseconds since the epoch, UTC.

-- Identity. Same position: a redo; another position: a duplicate, or an id used again. No text: content is a hash.
-- reason and copy_of: the verdict on a text that is a copy of another, for a redo to find; null where it is scored.
CREATE TABLE claim (
    text_id    text PRIMARY KEY,
    content    bytea NOT NULL,
    topic      text NOT NULL,
    partition  int NOT NULL,
    "offset"   bigint NOT NULL,
    claimed_at bigint NOT NULL,
    reason     text,
    copy_of    text
);

-- The text of each story that is scored. exact and anchor are hashes of its canonical tokens, prefixes of its beginnings; a
-- cut-off text is replaced by its whole, keeping its text_id. Rows older than the copies' time are deleted.
CREATE TABLE story (
    text_id    text PRIMARY KEY,
    exact      bytea NOT NULL,
    anchor     bigint NOT NULL,
    length     int NOT NULL,
    truncated  boolean NOT NULL,
    prefixes   bytea NOT NULL,
    event_time bigint NOT NULL,
    seen       bigint NOT NULL
);
CREATE INDEX story_exact ON story (exact);
CREATE INDEX story_anchor ON story (anchor);
CREATE INDEX story_seen ON story (seen);
