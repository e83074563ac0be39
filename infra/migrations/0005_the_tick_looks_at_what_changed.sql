-- A tick looks at what changed since the one before it, and leaves its matches where writing them costs least.

-- Numbers to compare and to carry, where ids would cost a tick four times as much.
ALTER TABLE users ADD COLUMN no bigint GENERATED ALWAYS AS IDENTITY UNIQUE;
ALTER TABLE iot_devices ADD COLUMN no bigint GENERATED ALWAYS AS IDENTITY UNIQUE;

-- What changed is what was written by a transaction that the tick before did not see. A transaction's number says that
-- exactly, and a snapshot says which numbers were seen: a mark of the highest seen would miss whoever commits late.
CREATE TABLE ticks (
    zone      text PRIMARY KEY REFERENCES zones,
    seen      pg_snapshot NOT NULL,  -- of the book and the devices, by the latest tick that left nothing to match
    whole_at  timestamptz NOT NULL   -- when the whole book was looked at
);

ALTER TABLE open_orders
    ADD COLUMN user_no bigint,
    ADD COLUMN device_no bigint,
    ADD COLUMN touched xid8 NOT NULL DEFAULT pg_current_xact_id(); -- it came, came back, grew, or got its device
UPDATE open_orders o SET user_no = (SELECT no FROM users WHERE id = o.user_id),
                         device_no = (SELECT no FROM iot_devices WHERE id = o.device_id);

-- Its energy, or what of it is free, may have become more, or the device is there again.
ALTER TABLE iot_devices ADD COLUMN freed xid8 NOT NULL DEFAULT pg_current_xact_id();
CREATE INDEX iot_devices_freed ON iot_devices (freed);
-- The trade holds nothing of its device's energy any more.
ALTER TABLE transactions ADD COLUMN released xid8;
CREATE INDEX transactions_released ON transactions (released) WHERE released IS NOT NULL;

-- By triggers, so that no statement can forget to.
CREATE FUNCTION note_open_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.touched := pg_current_xact_id();
    NEW.user_no := (SELECT no FROM users WHERE id = NEW.user_id);
    NEW.device_no := (SELECT no FROM iot_devices WHERE id = NEW.device_id);
    RETURN NEW;
END $$;
CREATE TRIGGER open_order_came BEFORE INSERT ON open_orders FOR EACH ROW EXECUTE FUNCTION note_open_order();
CREATE TRIGGER open_order_grew BEFORE UPDATE ON open_orders FOR EACH ROW
    WHEN (NEW.remaining_wh > OLD.remaining_wh OR NEW.device_id IS DISTINCT FROM OLD.device_id)
    EXECUTE FUNCTION note_open_order();

-- A device counts as gone DEVICE_ONLINE_S after its last message, which is never less than the 30 s here.
CREATE FUNCTION note_freed_device() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.status <> 'Online'
        OR NEW.silent_since IS NULL AND OLD.silent_since IS NOT NULL
        OR NEW.available_wh > coalesce(OLD.available_wh, 0)
        OR coalesce(OLD.last_ping, '-infinity') < clock_timestamp() - interval '30 seconds'
    THEN
        NEW.freed := pg_current_xact_id();
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER device_freed BEFORE UPDATE ON iot_devices FOR EACH ROW
    WHEN (NEW.status = 'Online') EXECUTE FUNCTION note_freed_device();

CREATE FUNCTION note_released_energy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.released := pg_current_xact_id();
    RETURN NEW;
END $$;
CREATE TRIGGER trade_released BEFORE UPDATE ON transactions FOR EACH ROW
    WHEN (NEW.status = 'Failed' AND OLD.status <> 'Failed'
          OR NEW.delivery IN ('Delivered', 'Short') AND NEW.delivery IS DISTINCT FROM OLD.delivery)
    EXECUTE FUNCTION note_released_energy();

-- Orders that trade wholly meet only those of their size; the others any.
CREATE INDEX open_orders_touched ON open_orders (zone, touched);
CREATE INDEX whole_asks ON open_orders (zone, remaining_wh, price_micro, arrival) WHERE type = 'sell' AND all_or_none;
CREATE INDEX whole_bids ON open_orders (zone, remaining_wh, price_micro DESC, arrival) WHERE type = 'buy' AND all_or_none;
CREATE INDEX partial_asks ON open_orders (zone, price_micro, arrival) WHERE type = 'sell' AND NOT all_or_none;
CREATE INDEX partial_bids ON open_orders (zone, price_micro DESC, arrival) WHERE type = 'buy' AND NOT all_or_none;

-- What a tick has matched, before it is a trade: whoever publishes the locks makes them, right afterwards. Narrow, and
-- without references or more indexes, because a tick may write twenty thousand in a transaction that holds the book: each
-- index would cost it half as much again.
CREATE TABLE matches (
    seq          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ask          bigint NOT NULL, -- the orders' arrival
    bid          bigint NOT NULL,
    device_no    bigint NOT NULL,
    energy_wh    bigint NOT NULL CHECK (energy_wh > 0),
    price_micro  bigint NOT NULL CHECK (price_micro > 0),
    rule_version smallint NOT NULL,
    matched_at   timestamptz NOT NULL DEFAULT now()
);

CREATE OR REPLACE VIEW order_states AS
SELECT o.*,
       t.confirmed_wh AS filled_wh,
       t.pending_wh,
       o.energy_wh - t.confirmed_wh - t.pending_wh AS remaining_wh,
       CASE WHEN o.closed IS NOT NULL THEN o.closed
            WHEN o.energy_wh > t.confirmed_wh + t.pending_wh THEN 'Created'
            WHEN t.awaits_lock THEN 'Matched'
            WHEN t.pending_wh > 0 THEN 'Executing'
            ELSE 'Completed'
       END AS status
FROM energy_orders o
CROSS JOIN LATERAL (
    SELECT coalesce(sum(t.energy_wh) FILTER (WHERE t.status = 'Confirmed'), 0)::bigint AS confirmed_wh,
           coalesce(sum(t.energy_wh) FILTER (WHERE t.status IN ('Pending', 'Locked', 'Submitted')), 0)::bigint AS pending_wh,
           coalesce(bool_or(t.status = 'Pending'), false) AS awaits_lock
    FROM (SELECT energy_wh, status FROM transactions WHERE sell_order_id = o.id
          UNION ALL
          SELECT energy_wh, status FROM transactions WHERE buy_order_id = o.id
          UNION ALL
          SELECT energy_wh, 'Pending' FROM matches WHERE ask = o.arrival
          UNION ALL
          SELECT energy_wh, 'Pending' FROM matches WHERE bid = o.arrival) t
) t;

-- An order that left the book with a match may have been 'Matched' by another trade's transition before.
CREATE OR REPLACE FUNCTION trades_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO events (entity, entity_id, to_status) SELECT 'trade', id, status FROM new_rows ORDER BY seq;
    INSERT INTO events (entity, entity_id, from_status, to_status)
    SELECT 'order', filled.id, 'Created', 'Matched'
    FROM (SELECT sell_order_id AS id FROM new_rows UNION SELECT buy_order_id FROM new_rows) filled
    WHERE NOT EXISTS (SELECT FROM open_orders WHERE order_id = filled.id)
      AND 'Created' = (SELECT to_status FROM events e WHERE e.entity_id = filled.id ORDER BY e.id DESC LIMIT 1);
    RETURN NULL;
END $$;
