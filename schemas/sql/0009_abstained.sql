-- depends: 0008_shadow
-- The model abstained: its greatest probability was below its threshold. What was scored before had no threshold.
ALTER TABLE prediction ADD COLUMN abstained boolean NOT NULL DEFAULT false;
