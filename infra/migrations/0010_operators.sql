-- Operators: they pause the market and say who is verified, and whatever they do is written down.

-- One row. While the market is paused no order is taken and nothing is matched; what is under way goes on.
CREATE TABLE market_state (
    the_only   boolean PRIMARY KEY DEFAULT true CHECK (the_only),
    paused     boolean NOT NULL DEFAULT false,
    changed_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO market_state DEFAULT VALUES;
REVOKE INSERT, DELETE ON market_state FROM energy_market_functions;

-- What an operator did, to what, and why, as he gave it. Only added to.
CREATE TABLE operator_acts (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    operator_id    uuid NOT NULL REFERENCES users,
    wallet_address text NOT NULL, -- the operator's, that the configuration named then
    act            text NOT NULL,
    subject        text,
    before         text,
    after          text,
    reason         text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
    at             timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX operator_acts_by_subject ON operator_acts (subject, id DESC);
REVOKE UPDATE, DELETE ON operator_acts FROM energy_market_functions;

CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END $$;
CREATE TRIGGER operator_acts_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON operator_acts
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Whether the order's user is verified: a market may match only those. Kept here, because a tick that looked it up would
-- pay for it with each order.
ALTER TABLE open_orders ADD COLUMN verified boolean NOT NULL DEFAULT false;
UPDATE open_orders o SET verified = true FROM users u WHERE u.id = o.user_id AND u.kyc_status = 'Verified';
-- Whom the latest tick matched: when that changes, there may be more to match though nothing is new.
ALTER TABLE ticks ADD COLUMN verified_only boolean NOT NULL DEFAULT false;

CREATE OR REPLACE FUNCTION note_open_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.touched := pg_current_xact_id();
    SELECT no, kyc_status = 'Verified' INTO NEW.user_no, NEW.verified FROM users WHERE id = NEW.user_id;
    NEW.device_no := (SELECT no FROM iot_devices WHERE id = NEW.device_id);
    RETURN NEW;
END $$;

-- Whoever changes a user's status holds the book: an order that comes at the same moment would not be seen here, nor see
-- the new status (usecases/set_kyc_status.py).
CREATE FUNCTION note_verified_user() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE open_orders SET verified = (NEW.kyc_status = 'Verified'), touched = pg_current_xact_id()
    WHERE user_id = NEW.id;
    RETURN NULL;
END $$;
CREATE TRIGGER user_verified AFTER UPDATE OF kyc_status ON users FOR EACH ROW
    WHEN ((NEW.kyc_status = 'Verified') <> (OLD.kyc_status = 'Verified')) EXECUTE FUNCTION note_verified_user();

-- What operators look up.
CREATE INDEX users_by_kyc_status ON users (kyc_status, no);
CREATE INDEX transactions_failed ON transactions (seq DESC) WHERE status = 'Failed';
CREATE INDEX transactions_short ON transactions (seq DESC) WHERE delivery = 'Short';
