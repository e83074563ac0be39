-- What the settlement's sweeps know of the chain, for those who ask none: ticks match only while trades can be paid.
-- `asked_at`: when the chain last answered a sweep; NULL before the first. `unfit`: a sentence on why trades cannot be
-- paid, though the chain answers.
CREATE TABLE chain_state (
    the_only boolean PRIMARY KEY DEFAULT true CHECK (the_only),
    asked_at timestamptz,
    unfit    text
);
INSERT INTO chain_state DEFAULT VALUES;
REVOKE INSERT, DELETE ON chain_state FROM energy_market_functions;
