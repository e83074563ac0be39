-- A status may leave out what it does not know; a device learns, through its owner, why it was not heard.

ALTER TABLE iot_devices
    ADD COLUMN available_seq bigint, -- of the status that told `available_wh`; null if that had none
    -- It has sent a count (`seq`) or told of a delivery, so it will tell how its deliveries end.
    ADD COLUMN reports_deliveries boolean NOT NULL DEFAULT false;
UPDATE iot_devices d SET reports_deliveries = true,
    available_seq = (SELECT (r.payload ->> 'seq')::bigint FROM device_reports r
                     WHERE r.device_id = d.id AND r.kind = 'donor_status' ORDER BY r.received_at DESC, r.id DESC LIMIT 1)
    WHERE available_wh IS NOT NULL; -- up to now a status had to have a count

-- What was not taken of what it sent: {topic, code, field, sentence}.
ALTER TABLE device_reports
    DROP CONSTRAINT device_reports_kind_check,
    ADD CHECK (kind IN ('donor_status', 'recipient_status', 'alert', 'transfer', 'presence', 'refused'));

-- 'unreported': its device tells of no delivery at all.
ALTER TABLE transactions
    DROP CONSTRAINT transactions_delivery_reason_check,
    ADD CHECK (delivery_reason IN ('under_delivered', 'delivery_timeout', 'reservation_lost', 'unreported'));
