-- depends: 0003_claims
-- Old claims are deleted: an id is remembered as long as what was made of its text, not for ever.
CREATE INDEX claim_claimed_at ON claim (claimed_at);
