-- depends: 0001_log
-- What the services know beside the log. All times are milliseconds since the epoch, UTC.

-- The only table that holds text: erasing a text is deleting its row and waiting out the short-lived topics.
CREATE TABLE text (
    text_id     text PRIMARY KEY,
    cluster     text NOT NULL,
    body        text NOT NULL,
    source      text NOT NULL,
    external_id text,
    url         text,
    language    text NOT NULL,
    marks       text[] NOT NULL,
    event_time  bigint NOT NULL,
    received    bigint NOT NULL
);
CREATE INDEX text_cluster ON text (cluster);

-- position: a number that grows in the order rows were stored; the cursor of paging.
CREATE TABLE prediction (
    prediction_id text PRIMARY KEY,
    position      bigint GENERATED ALWAYS AS IDENTITY,
    text_id       text NOT NULL,
    cluster       text NOT NULL,
    label         text NOT NULL,
    negative      real NOT NULL,
    neutral       real NOT NULL,
    positive      real NOT NULL,
    model         text NOT NULL,
    epoch         bigint NOT NULL,
    tickers       text[] NOT NULL,
    source        text NOT NULL,
    language      text NOT NULL,
    event_time    bigint NOT NULL,
    scored        bigint NOT NULL,
    truncated     boolean NOT NULL,
    origin_partition int NOT NULL,
    origin_offset    bigint NOT NULL
);
CREATE INDEX prediction_text ON prediction (text_id);
CREATE INDEX prediction_time ON prediction (event_time, prediction_id);
CREATE INDEX prediction_tickers ON prediction USING gin (tickers);

-- The account: exact counts, moved in the transaction that moves the store's offsets.
CREATE TABLE tally (
    topic  text NOT NULL,
    reason text NOT NULL DEFAULT '',
    n      bigint NOT NULL,
    PRIMARY KEY (topic, reason)
);

CREATE TABLE feedback (
    feedback_id   text PRIMARY KEY,
    prediction_id text NOT NULL,
    text_id       text NOT NULL,
    kind          text NOT NULL,
    label         text NOT NULL,
    annotator     text NOT NULL,
    comment       text,
    sampled       boolean NOT NULL,
    given         bigint NOT NULL
);
CREATE INDEX feedback_prediction ON feedback (prediction_id);

CREATE TABLE example (
    example_id    text PRIMARY KEY,
    position      bigint GENERATED ALWAYS AS IDENTITY,
    feedback_id   text NOT NULL,
    prediction_id text NOT NULL,
    text_id       text NOT NULL,
    cluster       text NOT NULL,
    predicted     text NOT NULL,
    label         text NOT NULL,
    model         text NOT NULL,
    epoch         bigint NOT NULL,
    annotator     text NOT NULL,
    sampled       boolean NOT NULL,
    holdout       boolean NOT NULL,
    given         bigint NOT NULL
);

-- Model files by content, in chunks of 1 MiB: a scorer on another machine gets them here.
CREATE TABLE model_blob (
    sha256 text NOT NULL,
    part   int NOT NULL,
    bytes  bytea STORAGE EXTERNAL NOT NULL,
    PRIMARY KEY (sha256, part)
);
CREATE TABLE model_version (
    version text PRIMARY KEY,
    parent  text,
    card    jsonb NOT NULL,
    files   jsonb NOT NULL,
    created bigint NOT NULL
);

-- The promotion ledger: append-only, each row carries the hash of the row before.
CREATE TABLE ledger (
    epoch    bigint PRIMARY KEY,
    action   text NOT NULL,
    version  text NOT NULL REFERENCES model_version,
    champion text,
    actor    text NOT NULL,
    reason   text NOT NULL,
    evidence text NOT NULL,
    at       bigint NOT NULL,
    previous text NOT NULL,
    hash     text NOT NULL
);
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS '
BEGIN
    RAISE EXCEPTION ''the ledger is append-only'';
END';
CREATE TRIGGER ledger_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE training_run (
    run      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    trigger  text NOT NULL,
    state    text NOT NULL,
    upto     bigint NOT NULL,
    detail   jsonb NOT NULL,
    started  bigint NOT NULL,
    finished bigint
);

-- Aggregates of one ticker and minute: upserts with a revision. late: mentions past the lateness, counted aside.
CREATE TABLE window_minute (
    ticker    text NOT NULL,
    start     bigint NOT NULL,
    n         bigint NOT NULL,
    negative  bigint NOT NULL,
    neutral   bigint NOT NULL,
    positive  bigint NOT NULL,
    sentiment double precision NOT NULL,
    closed    boolean NOT NULL,
    revision  bigint NOT NULL,
    PRIMARY KEY (ticker, start)
);

-- Live processes: each service beats once a second.
CREATE TABLE service (
    name    text NOT NULL,
    slot    int NOT NULL,
    pid     int NOT NULL,
    address text,
    state   text NOT NULL,
    detail  jsonb NOT NULL,
    started bigint NOT NULL,
    beat    bigint NOT NULL,
    PRIMARY KEY (name, slot)
);

CREATE TABLE trip (
    grp    text PRIMARY KEY,
    reason text NOT NULL,
    at     timestamptz NOT NULL DEFAULT now()
);
