-- An ask whose device failed it keeps its place in the book, and its device is not matched before its next status. So that
-- a device that fails again and again does not hold up the best bid, its failures are counted, and it pauses.

-- `silent_since` is since when the device waits for its next status: one that the broker had before does not count.
ALTER TABLE iot_devices
    ADD COLUMN waits_because text CHECK (waits_because IN ('lock_timeout', 'lock_rejected', 'reservation_lost')),
    ADD COLUMN failures      integer NOT NULL DEFAULT 0, -- in a row
    ADD COLUMN failed_at     timestamptz,                -- the latest that was counted
    ADD COLUMN failed_wh     bigint NOT NULL DEFAULT 0,  -- the largest trade of the row
    ADD COLUMN paused_until  timestamptz;                -- not matched while it stands; a tick takes it away when it is over
CREATE INDEX iot_devices_paused ON iot_devices (zone, paused_until) WHERE paused_until IS NOT NULL;

-- Of an order these change, too.
ALTER TABLE energy_orders
    ADD COLUMN failures  integer NOT NULL DEFAULT 0, -- of its device, in a row
    ADD COLUMN failed_at timestamptz;                -- the latest that was counted

CREATE OR REPLACE FUNCTION note_freed_device() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.status <> 'Online'
        OR NEW.silent_since IS NULL AND OLD.silent_since IS NOT NULL
        OR NEW.paused_until IS NULL AND OLD.paused_until IS NOT NULL
        OR NEW.available_wh > coalesce(OLD.available_wh, 0)
        OR coalesce(OLD.last_ping, '-infinity') < clock_timestamp() - interval '30 seconds'
    THEN
        NEW.freed := pg_current_xact_id();
    END IF;
    RETURN NEW;
END $$;

-- A confirmed trade ends its device's row of failures, if it is as large as the largest of them: else a device could
-- hold up large bids, and make up for it with crumbs.
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
        UPDATE iot_devices SET failures = 0, failed_wh = 0
        WHERE failures > 0 AND id IN (
            SELECT d.id FROM iot_devices d
            JOIN (SELECT n.device_id, max(n.energy_wh) AS energy_wh FROM new_rows n JOIN old_rows o USING (id)
                  WHERE n.status = 'Confirmed' AND o.status <> 'Confirmed' GROUP BY n.device_id) sold ON sold.device_id = d.id
            WHERE d.failures > 0 AND d.failed_wh <= sold.energy_wh ORDER BY d.id FOR NO KEY UPDATE OF d);
    END IF;
    INSERT INTO events (entity, entity_id, from_status, to_status, reason)
    SELECT 'delivery', n.id, o.delivery, n.delivery, n.delivery_reason
    FROM new_rows n JOIN old_rows o USING (id)
    WHERE n.delivery IS DISTINCT FROM o.delivery AND n.delivery IS NOT NULL ORDER BY n.seq;
    RETURN NULL;
END $$;
