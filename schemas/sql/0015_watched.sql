-- depends: 0013_dataset
-- What a champion (of ledger row `epoch`) and its predecessor say of texts that were labelled at random after it came:
-- labels each, to be held against the readers' last word. Ids only.
CREATE TABLE watched (
    epoch    bigint NOT NULL,
    text_id  text NOT NULL,
    champion text NOT NULL,
    former   text NOT NULL,
    PRIMARY KEY (epoch, text_id)
);
CREATE INDEX example_sampled ON example (text_id) WHERE holdout AND sampled;
