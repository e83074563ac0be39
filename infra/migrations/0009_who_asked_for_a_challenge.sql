-- Which source address asked for a challenge: of one that a login does not name, its own come first, so that nobody can
-- push them out by asking for others. Kept as long as the challenge, five minutes.
ALTER TABLE challenges ADD COLUMN source text NOT NULL DEFAULT '';
