-- depends: 0009_abstained
-- Who may speak to the gateway. id: the key's public part; name: whose words they are. hash: SHA-256 of the whole key,
-- which is shown once and kept nowhere. used: to about a minute.
CREATE TABLE api_key (
    id      text PRIMARY KEY,
    name    text NOT NULL,
    role    text NOT NULL CHECK (role IN ('source', 'reader', 'annotator', 'operator')),
    hash    text NOT NULL,
    created bigint NOT NULL,
    expires bigint,
    revoked bigint,
    used    bigint
);
