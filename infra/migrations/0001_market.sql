-- The market: users, devices, orders, trades, the chain's transactions, and what sign-in needs.
--
-- Integers are the truth: energy in watt-hours (wh), prices in micro-tokens per kWh, amounts in nano-tokens
-- (wh * micro-tokens per kWh, exact). The columns the specification names (kwh_amount, token_price, token_amount)
-- are generated from them. All times are set by the database.

CREATE TABLE zones (
    id         text PRIMARY KEY CHECK (id ~ '^[a-z0-9-]{1,40}$'),
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO zones (id) VALUES ('default');

CREATE TABLE users (
    id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    wallet_address text NOT NULL UNIQUE CHECK (wallet_address ~ '^0x[0-9a-fA-F]{40}$'), -- EIP-55 spelling
    roles          text[] NOT NULL DEFAULT '{Recipient}'
                   CHECK (roles <@ '{Donor,Recipient,NetworkNodeOperator}'::text[] AND cardinality(roles) > 0),
    role           text NOT NULL GENERATED ALWAYS AS (roles[cardinality(roles)]) STORED, -- the latest gained
    location       text CHECK (length(location) BETWEEN 1 AND 200),
    zone           text NOT NULL DEFAULT 'default' REFERENCES zones,
    kyc_status     text NOT NULL DEFAULT 'Unverified' CHECK (kyc_status IN ('Unverified', 'Pending', 'Verified', 'Refused')),
    created_at     timestamptz NOT NULL DEFAULT now()
);

-- Sign-in challenges (EIP-4361). A row is deleted by the sign-in that uses it.
CREATE TABLE challenges (
    nonce          text PRIMARY KEY,
    wallet_address text NOT NULL,
    message        text NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    expires_at     timestamptz NOT NULL
);
CREATE INDEX challenges_by_wallet ON challenges (wallet_address, created_at DESC);
CREATE INDEX challenges_by_expiry ON challenges (expires_at);

-- One row a session. The token a client holds is "<id>.<secret>": whoever knows the id has seen a token of this session,
-- so a secret that is not the current one is an old token used again.
CREATE TABLE refresh_tokens (
    id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id       uuid NOT NULL REFERENCES users,
    token_hash    bytea NOT NULL,
    previous_hash bytea,
    created_at    timestamptz NOT NULL DEFAULT now(),
    rotated_at    timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz NOT NULL,
    revoked_at    timestamptz
);
CREATE INDEX refresh_tokens_by_user ON refresh_tokens (user_id);
CREATE INDEX refresh_tokens_by_expiry ON refresh_tokens (expires_at);

CREATE TABLE idempotency_keys (
    user_id    uuid NOT NULL REFERENCES users,
    route      text NOT NULL,
    key        text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    body_hash  bytea NOT NULL,
    status     smallint NOT NULL,
    answer     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, route, key)
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);

-- Requests of one source in one minute. Unlogged: a crash of the database forgets a minute's counts, nothing else.
CREATE UNLOGGED TABLE rate_limits (
    source   text NOT NULL,
    minute   timestamptz NOT NULL,
    requests integer NOT NULL,
    PRIMARY KEY (source, minute)
);
CREATE INDEX rate_limits_by_minute ON rate_limits (minute);

CREATE TABLE iot_devices (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(), -- also the thing's name, the MQTT client id and the topics' device_id
    owner_id        uuid NOT NULL REFERENCES users,
    device_type     text NOT NULL CHECK (device_type IN ('esp32', 'raspi')),
    side            text NOT NULL CHECK (side IN ('donor', 'recipient')),
    location        text NOT NULL CHECK (length(location) BETWEEN 1 AND 200),
    zone            text NOT NULL REFERENCES zones,
    status          text NOT NULL DEFAULT 'Provisioning' CHECK (status IN ('Provisioning', 'Registered', 'Online', 'Offline', 'Removed')),
    last_ping       timestamptz,
    certificate_arn text,
    available_wh    bigint CHECK (available_wh BETWEEN 0 AND 1000000000), -- sellable, reserved energy included; null before the first status
    battery_level   numeric CHECK (battery_level BETWEEN 0 AND 100),
    status_seq      bigint,          -- highest seq of a status or transfer message taken
    presence_session text,          -- the latest MQTT session that we heard of
    presence_ms     bigint,          -- the broker's time of the latest presence event taken
    silent_since    timestamptz,     -- a lock ran out unanswered; cleared by the next status
    reported_locks  uuid[] NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX iot_devices_by_owner ON iot_devices (owner_id, created_at);

-- What devices said, kept for a bounded time.
CREATE TABLE device_reports (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_id   uuid NOT NULL REFERENCES iot_devices,
    kind        text NOT NULL CHECK (kind IN ('donor_status', 'recipient_status', 'alert', 'transfer', 'presence')),
    payload     jsonb NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX device_reports_by_device ON device_reports (device_id, id DESC);
CREATE INDEX device_reports_by_age ON device_reports (received_at);

CREATE TABLE network_nodes (
    id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    operator_id    uuid NOT NULL REFERENCES users,
    location       text NOT NULL CHECK (length(location) BETWEEN 1 AND 200),
    uptime         numeric NOT NULL DEFAULT 0 CHECK (uptime BETWEEN 0 AND 100),
    packets_routed bigint NOT NULL DEFAULT 0 CHECK (packets_routed >= 0),
    earnings_nano  bigint NOT NULL DEFAULT 0 CHECK (earnings_nano >= 0),
    earnings       numeric NOT NULL GENERATED ALWAYS AS (earnings_nano * 0.000000001) STORED,
    created_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX network_nodes_by_operator ON network_nodes (operator_id);

-- What was ordered, for good. Only `device_id` (once), `closed`, `closed_at` and `reason` ever change.
-- Whether an order is open, and what of it remains, follows from this, its trades and `closed`: see the view order_states.
CREATE TABLE energy_orders (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    arrival     bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    user_id     uuid NOT NULL REFERENCES users,
    device_id   uuid REFERENCES iot_devices,
    zone        text NOT NULL REFERENCES zones,
    type        text NOT NULL CHECK (type IN ('buy', 'sell')),
    energy_wh   bigint NOT NULL CHECK (energy_wh BETWEEN 1 AND 1000000000),
    price_micro bigint NOT NULL CHECK (price_micro BETWEEN 1 AND 1000000000),
    kwh_amount  numeric NOT NULL GENERATED ALWAYS AS (energy_wh * 0.001) STORED,
    token_price numeric NOT NULL GENERATED ALWAYS AS (price_micro * 0.000001) STORED,
    all_or_none boolean NOT NULL,
    expires_at  timestamptz,
    closed      text CHECK (closed IN ('Cancelled', 'Expired', 'Rejected')),
    reason      text,
    closed_at   timestamptz,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CHECK (device_id IS NULL OR type = 'sell'),
    CHECK ((closed IS NULL) = (closed_at IS NULL))
);
CREATE INDEX energy_orders_by_user ON energy_orders (user_id, arrival DESC);

-- The book: the open remainder of each open order, and nothing else. Narrow, because the matcher reads and deletes here.
-- A row that is deleted or shrunk by exactly one statement is what makes "matched or cancelled, never both" true.
CREATE TABLE open_orders (
    order_id     uuid PRIMARY KEY REFERENCES energy_orders,
    zone         text NOT NULL,
    type         text NOT NULL,
    user_id      uuid NOT NULL,
    device_id    uuid,
    remaining_wh bigint NOT NULL CHECK (remaining_wh > 0),
    price_micro  bigint NOT NULL,
    arrival      bigint NOT NULL,
    all_or_none  boolean NOT NULL,
    expires_at   timestamptz
);
CREATE INDEX open_asks ON open_orders (zone, price_micro, arrival) WHERE type = 'sell';
CREATE INDEX open_bids ON open_orders (zone, price_micro DESC, arrival) WHERE type = 'buy';
CREATE INDEX open_orders_by_arrival ON open_orders (arrival);
CREATE INDEX open_orders_by_expiry ON open_orders (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX open_orders_by_user ON open_orders (user_id);

-- One chain transaction of the operator's: a batch of trades under one nonce.
CREATE TABLE settlement_batches (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    chain_id     bigint NOT NULL,
    contract     text NOT NULL,
    sender       text NOT NULL,
    nonce        bigint NOT NULL CHECK (nonce >= 0),
    status       text NOT NULL DEFAULT 'Stored' CHECK (status IN ('Stored', 'Mined', 'Final', 'Reverted', 'Replaced')),
    block_number bigint,
    block_hash   text,
    mined_hash   text,
    reason       text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (chain_id, sender, nonce)
);
CREATE INDEX settlement_batches_under_way ON settlement_batches (nonce) WHERE status IN ('Stored', 'Mined');

-- Every signed form of a batch (a stuck one is signed again with higher fees under the same nonce), stored before it is sent.
CREATE TABLE signed_transactions (
    hash                     text PRIMARY KEY,
    batch_id                 uuid NOT NULL REFERENCES settlement_batches,
    raw                      bytea NOT NULL,
    max_fee_per_gas          numeric NOT NULL,
    max_priority_fee_per_gas numeric NOT NULL,
    created_at               timestamptz NOT NULL DEFAULT now(),
    sent_at                  timestamptz, -- the last time it was handed to the node
    sends                    integer NOT NULL DEFAULT 0
);
CREATE INDEX signed_transactions_by_batch ON signed_transactions (batch_id, created_at);

-- Every trade that a batch ever carried. A trade whose batch reverted or was replaced goes into another, which
-- `transactions.batch_id` then names; here it stands in both.
CREATE TABLE settlement_batch_trades (
    batch_id       uuid NOT NULL REFERENCES settlement_batches,
    transaction_id uuid NOT NULL, -- REFERENCES transactions, below
    PRIMARY KEY (batch_id, transaction_id)
);
CREATE INDEX settlement_batch_trades_by_trade ON settlement_batch_trades (transaction_id);

-- Who may send to the chain now. Work under a lease ends with its expiry; safety does not rest on it (unique sender and nonce does).
CREATE TABLE leases (
    name       text PRIMARY KEY,
    holder     uuid NOT NULL,
    expires_at timestamptz NOT NULL
);

-- The trades.
CREATE TABLE transactions (
    id               uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    seq              bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    sell_order_id    uuid NOT NULL REFERENCES energy_orders,
    buy_order_id     uuid NOT NULL REFERENCES energy_orders,
    donor_id         uuid NOT NULL REFERENCES users,
    recipient_id     uuid NOT NULL REFERENCES users,
    device_id        uuid NOT NULL REFERENCES iot_devices,
    zone             text NOT NULL REFERENCES zones,
    energy_wh        bigint NOT NULL CHECK (energy_wh BETWEEN 1 AND 1000000000),
    price_micro      bigint NOT NULL CHECK (price_micro BETWEEN 1 AND 1000000000),
    amount_nano      bigint NOT NULL GENERATED ALWAYS AS (energy_wh * price_micro) STORED,
    kwh_amount       numeric NOT NULL GENERATED ALWAYS AS (energy_wh * 0.001) STORED,
    token_amount     numeric NOT NULL GENERATED ALWAYS AS (energy_wh * price_micro * 0.000000001) STORED,
    rule_version     smallint NOT NULL,
    status           text NOT NULL DEFAULT 'Pending' CHECK (status IN ('Pending', 'Locked', 'Submitted', 'Confirmed', 'Failed')),
    reason           text,
    blockchain_hash  text,
    batch_id         uuid REFERENCES settlement_batches,
    "timestamp"      timestamptz NOT NULL DEFAULT now(), -- when it was matched
    expires_at       timestamptz,  -- the lock's deadline; set by whoever claims the row to publish the lock
    locked_at        timestamptz,
    valid_until      timestamptz,  -- after this the contract no longer pays it
    submitted_at     timestamptz,
    confirmed_at     timestamptz,
    failed_at        timestamptz,
    command_sent_at  timestamptz,  -- the last lock, unlock or transfer command
    unlock           text CHECK (unlock IN ('Owed', 'Done')), -- of a failed trade whose lock was published
    delivery         text CHECK (delivery IN ('Owed', 'Started', 'Delivered')), -- of a confirmed trade
    delivered_wh     bigint NOT NULL DEFAULT 0 CHECK (delivered_wh >= 0),
    delivery_seq     bigint,
    CHECK (donor_id <> recipient_id),
    CHECK ((status = 'Failed') = (failed_at IS NOT NULL)),
    CHECK (status <> 'Failed' OR reason IS NOT NULL),
    CHECK (status NOT IN ('Locked', 'Submitted', 'Confirmed') OR (locked_at IS NOT NULL AND valid_until IS NOT NULL)),
    CHECK (status NOT IN ('Submitted', 'Confirmed') OR batch_id IS NOT NULL),
    CHECK (status <> 'Confirmed' OR (confirmed_at IS NOT NULL AND blockchain_hash IS NOT NULL))
);
ALTER TABLE settlement_batch_trades ADD FOREIGN KEY (transaction_id) REFERENCES transactions;
CREATE INDEX transactions_by_sell_order ON transactions (sell_order_id);
CREATE INDEX transactions_by_buy_order ON transactions (buy_order_id);
CREATE INDEX transactions_by_donor ON transactions (donor_id, seq DESC);
CREATE INDEX transactions_by_recipient ON transactions (recipient_id, seq DESC);
CREATE INDEX transactions_by_batch ON transactions (batch_id) WHERE batch_id IS NOT NULL;
CREATE INDEX transactions_under_way ON transactions (status, seq) WHERE status IN ('Pending', 'Locked', 'Submitted');
CREATE INDEX transactions_confirmed ON transactions (zone, confirmed_at DESC) WHERE status = 'Confirmed';
CREATE INDEX transactions_owed_to_devices ON transactions (device_id)
    WHERE unlock = 'Owed' OR delivery IN ('Owed', 'Started');
-- What a device has promised and not yet delivered.
CREATE INDEX transactions_reserving ON transactions (device_id)
    WHERE status <> 'Failed' AND delivery IS DISTINCT FROM 'Delivered';
