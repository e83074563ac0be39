-- Delivery has an end, and so has everything else that is owed to a device; a lost reservation is noticed.

-- 'Short': it ended with less than was traded; delivered_wh says how much. A report of all of it, however late, still makes
-- it 'Delivered'.
ALTER TABLE transactions
    ADD COLUMN deliver_by timestamptz,      -- after this an unfinished delivery is Short; set when it is confirmed first
    ADD COLUMN delivery_reason text CHECK (delivery_reason IN ('under_delivered', 'delivery_timeout', 'reservation_lost')),
    ADD COLUMN unlock_by timestamptz,       -- after this an owed unlock has lapsed
    DROP CONSTRAINT transactions_delivery_check,
    DROP CONSTRAINT transactions_unlock_check,
    ADD CHECK (delivery IN ('Owed', 'Started', 'Delivered', 'Short')),
    ADD CHECK (delivery <> 'Short' OR delivery_reason IS NOT NULL),
    -- Of a trade that failed or ended Short. 'Lapsed': its device was not heard of; its next status that lists the lock
    -- makes it 'Owed' again.
    ADD CHECK (unlock IN ('Owed', 'Done', 'Lapsed'));

-- A status that was said after the lock was answered and does not list it says that the device has lost it.
ALTER TABLE transactions ADD COLUMN lock_seq bigint; -- of the answer; null from a device that counts only its statuses
-- When the broker had the last status that was taken: a device that counts anew is heard again some time after it.
ALTER TABLE iot_devices ADD COLUMN status_heard_at timestamptz;

-- Registrations that died half-way, and those under way.
CREATE INDEX iot_devices_provisioning ON iot_devices (created_at) WHERE status = 'Provisioning';

-- By a trigger, so that no statement can forget a deadline (nor one of the software before this one, which runs on until a
-- deploy has ended). The delivery window is a parameter of the settlement, which sets `deliver_by` itself.
CREATE FUNCTION give_deadlines() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.delivery IN ('Owed', 'Started') THEN
        NEW.deliver_by := coalesce(NEW.deliver_by, clock_timestamp() + interval '1 day');
    END IF;
    NEW.unlock_by := CASE WHEN NEW.unlock = 'Owed' THEN coalesce(NEW.unlock_by, clock_timestamp() + interval '1 day') END;
    RETURN NEW;
END $$;
CREATE TRIGGER trades_get_deadlines BEFORE INSERT OR UPDATE ON transactions FOR EACH ROW
    WHEN (NEW.delivery IN ('Owed', 'Started') AND NEW.deliver_by IS NULL
          OR (NEW.unlock IS NOT DISTINCT FROM 'Owed') <> (NEW.unlock_by IS NOT NULL))
    EXECUTE FUNCTION give_deadlines();

CREATE INDEX transactions_to_deliver ON transactions (deliver_by)
    WHERE status = 'Confirmed' AND delivery IN ('Owed', 'Started');
CREATE INDEX transactions_to_release ON transactions (unlock_by) WHERE unlock = 'Owed';
-- What a device has promised and not yet delivered.
DROP INDEX transactions_reserving;
CREATE INDEX transactions_reserving ON transactions (device_id)
    WHERE status <> 'Failed' AND delivery IS DISTINCT FROM 'Delivered' AND delivery IS DISTINCT FROM 'Short';

-- A delivery's transitions are events too, of the trade's id.
ALTER TABLE events
    DROP CONSTRAINT events_entity_check,
    ADD CHECK (entity IN ('order', 'trade', 'device', 'delivery'));

CREATE OR REPLACE FUNCTION trades_updated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO events (entity, entity_id, from_status, to_status, reason)
    SELECT 'trade', n.id, o.status, n.status, n.reason
    FROM new_rows n JOIN old_rows o USING (id) WHERE n.status <> o.status ORDER BY n.seq;
    IF FOUND THEN
        PERFORM record_order_transitions(array_agg(touched.id), max(touched.reason))
        FROM (SELECT n.sell_order_id AS id, n.reason FROM new_rows n JOIN old_rows o USING (id) WHERE n.status <> o.status
              UNION
              SELECT n.buy_order_id, n.reason FROM new_rows n JOIN old_rows o USING (id) WHERE n.status <> o.status) touched;
    END IF;
    INSERT INTO events (entity, entity_id, from_status, to_status, reason)
    SELECT 'delivery', n.id, o.delivery, n.delivery, n.delivery_reason
    FROM new_rows n JOIN old_rows o USING (id)
    WHERE n.delivery IS DISTINCT FROM o.delivery AND n.delivery IS NOT NULL ORDER BY n.seq;
    RETURN NULL;
END $$;

-- What is there already: deliveries that ended with less, deadlines (the trigger gives them), and the first event of each.
UPDATE transactions SET delivered_wh = energy_wh WHERE delivered_wh > energy_wh;
UPDATE transactions SET delivery = 'Short', delivery_reason = 'under_delivered'
    WHERE delivery = 'Delivered' AND delivered_wh < energy_wh;
UPDATE transactions SET deliver_by = NULL WHERE unlock = 'Owed' OR delivery IN ('Owed', 'Started');
INSERT INTO events (entity, entity_id, to_status, reason)
    SELECT 'delivery', id, delivery, delivery_reason FROM transactions WHERE delivery <> 'Short' ORDER BY seq;
