-- The book shows what of its orders can trade, as of the loop's last step.

-- What each device could give then: of those that may be matched and have something free. Only that step writes here.
CREATE TABLE device_supplies (
    device_id uuid PRIMARY KEY,
    energy_wh bigint NOT NULL CHECK (energy_wh > 0)
);
-- The devices of which something was written since, and those whose orders came. Rows are only added here, so that nobody
-- waits for anybody; the loop's step takes them and looks anew at these devices.
CREATE TABLE device_changes (
    device_id uuid NOT NULL,
    has_new   boolean NOT NULL -- an order of it came, perhaps while the step was at work
);
INSERT INTO device_changes SELECT id, true FROM iot_devices WHERE side = 'donor';
-- Whom the market is for, as of that step.
ALTER TABLE market_state ADD COLUMN verified_only boolean NOT NULL DEFAULT false;

ALTER TABLE open_orders ADD COLUMN shown_wh bigint NOT NULL DEFAULT 0;
UPDATE open_orders SET shown_wh = remaining_wh WHERE type = 'buy'; -- asks: by the first step
ALTER TABLE open_orders ADD CHECK (shown_wh BETWEEN 0 AND remaining_wh);

-- What an order shows. An ask: no more than its device's supply, whatever other orders that device has. A bid: all of it.
CREATE FUNCTION wh_to_show(type text, all_or_none boolean, remaining_wh bigint, is_admitted boolean, supply_wh bigint)
RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN NOT is_admitted THEN 0
                WHEN type = 'buy' THEN remaining_wh
                WHEN all_or_none AND remaining_wh > coalesce(supply_wh, 0) THEN 0
                ELSE least(remaining_wh, coalesce(supply_wh, 0))
           END
$$;

CREATE OR REPLACE FUNCTION note_open_order() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    supply_wh bigint;
BEGIN
    NEW.touched := pg_current_xact_id();
    SELECT no, kyc_status = 'Verified' INTO NEW.user_no, NEW.verified FROM users WHERE id = NEW.user_id;
    NEW.device_no := NULL;
    IF NEW.device_id IS NOT NULL THEN
        SELECT d.no, s.energy_wh INTO NEW.device_no, supply_wh
        FROM iot_devices d LEFT JOIN device_supplies s ON s.device_id = d.id WHERE d.id = NEW.device_id;
        INSERT INTO device_changes (device_id, has_new) VALUES (NEW.device_id, true);
    END IF;
    NEW.shown_wh := wh_to_show(NEW.type, NEW.all_or_none, NEW.remaining_wh,
                               NEW.verified OR NOT (SELECT verified_only FROM market_state), supply_wh);
    RETURN NEW;
END $$;
DROP TRIGGER open_order_grew ON open_orders;
CREATE TRIGGER open_order_grew BEFORE UPDATE ON open_orders FOR EACH ROW
    WHEN (NEW.remaining_wh > OLD.remaining_wh OR NEW.device_id IS DISTINCT FROM OLD.device_id
          OR NEW.verified <> OLD.verified)
    EXECUTE FUNCTION note_open_order();

CREATE OR REPLACE FUNCTION note_verified_user() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE open_orders SET verified = (NEW.kyc_status = 'Verified') WHERE user_id = NEW.id;
    RETURN NULL;
END $$;

-- What remains is less: exactly what its device's supply allows of the rest, without looking.
CREATE FUNCTION note_open_order_shrank() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.shown_wh := NEW.remaining_wh;
    RETURN NEW;
END $$;
CREATE TRIGGER open_order_shrank BEFORE UPDATE ON open_orders FOR EACH ROW
    WHEN (NEW.shown_wh > NEW.remaining_wh) EXECUTE FUNCTION note_open_order_shrank();

-- A device's supply follows from its row, and from its matches and trades. Matches the step sees by itself.
CREATE FUNCTION note_device_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO device_changes (device_id, has_new) VALUES (NEW.id, false);
    RETURN NULL;
END $$;
CREATE TRIGGER device_changed AFTER UPDATE ON iot_devices FOR EACH ROW
    WHEN (NEW.side = 'donor') EXECUTE FUNCTION note_device_change();

CREATE FUNCTION note_devices_of_trades() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO device_changes (device_id, has_new) SELECT DISTINCT device_id, false FROM new_rows;
    RETURN NULL;
END $$;
CREATE TRIGGER trades_came_of_devices AFTER INSERT ON transactions
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION note_devices_of_trades();
CREATE TRIGGER trades_changed_of_devices AFTER UPDATE ON transactions
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION note_devices_of_trades();

-- The levels add up what is shown.
CREATE OR REPLACE FUNCTION note_orders_in() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO level_changes (zone, type, price_micro, energy_wh, orders)
    SELECT zone, type, price_micro, sum(shown_wh), count(*) FROM new_rows WHERE shown_wh > 0
    GROUP BY zone, type, price_micro;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION note_orders_out() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO level_changes (zone, type, price_micro, energy_wh, orders)
    SELECT zone, type, price_micro, -sum(shown_wh), -count(*) FROM old_rows WHERE shown_wh > 0
    GROUP BY zone, type, price_micro;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION note_orders_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO level_changes (zone, type, price_micro, energy_wh, orders)
    SELECT zone, type, price_micro, sum(energy_wh), sum(orders)
    FROM (SELECT zone, type, price_micro, shown_wh AS energy_wh, 1 AS orders FROM new_rows WHERE shown_wh > 0
          UNION ALL
          SELECT zone, type, price_micro, -shown_wh, -1 FROM old_rows WHERE shown_wh > 0) changes
    GROUP BY zone, type, price_micro HAVING sum(energy_wh) <> 0 OR sum(orders) <> 0;
    RETURN NULL;
END $$;

-- They had all that remains.
INSERT INTO level_changes (zone, type, price_micro, energy_wh, orders)
SELECT zone, type, price_micro, sum(shown_wh - remaining_wh), -count(*) FILTER (WHERE shown_wh = 0)
FROM open_orders WHERE shown_wh < remaining_wh GROUP BY zone, type, price_micro;
