-- What the contract lets all trades together move in an hour, as the latest sweep found it: no order is taken that one
-- trade could never be paid within. NULL before the first sweep.
ALTER TABLE chain_state ADD COLUMN limit_nano bigint CHECK (limit_nano >= 0);
