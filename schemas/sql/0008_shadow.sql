-- depends: 0007_words
-- What a shadow said of texts that the champion scored. epoch: the ledger row that began the shadow.
CREATE TABLE shadow_prediction (
    prediction_id text PRIMARY KEY,
    position      bigint GENERATED ALWAYS AS IDENTITY,
    text_id       text NOT NULL,
    label         text NOT NULL,
    negative      real NOT NULL,
    neutral       real NOT NULL,
    positive      real NOT NULL,
    model         text NOT NULL,
    epoch         bigint NOT NULL,
    scored        bigint NOT NULL
);
CREATE INDEX shadow_prediction_model ON shadow_prediction (model, position);
