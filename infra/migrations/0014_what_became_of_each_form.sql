-- What the nodes said to each signed form of a batch, and under which fees of the chain it was signed. A form that the
-- node refused is not about: the next one need not outbid it. Tries are counted while nothing changes.
ALTER TABLE signed_transactions
    ADD COLUMN refusal text, -- of the last time it was handed to the node; null: it was taken, or nobody knows
    ADD COLUMN asked_max_fee_per_gas numeric, -- what the chain asked for when it was signed; null in older ones
    ADD COLUMN asked_max_priority_fee_per_gas numeric,
    ADD COLUMN tries integer NOT NULL DEFAULT 1; -- forms in a row, this one included, for which the chain asked the same
