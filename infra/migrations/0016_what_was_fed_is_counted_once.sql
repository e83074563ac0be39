-- Energy that is fed leaves what its device has available and what is promised of it at one moment. `available_wh` is of
-- one status; what was fed before that status is in it no more, and must not be promised any more either.
ALTER TABLE iot_devices ADD COLUMN available_at timestamptz; -- when the broker had that status
UPDATE iot_devices SET available_at = status_heard_at;

ALTER TABLE transactions
    ADD COLUMN fed_wh bigint NOT NULL DEFAULT 0; -- of the delivery, before the status that told `available_wh`
-- Of what has ended, available_wh was reduced when it did. Of a delivery under way the device's next status tells.
UPDATE transactions SET fed_wh = delivered_wh WHERE delivered_wh > 0 AND (status = 'Failed' OR delivery IN ('Delivered', 'Short'));

-- Reports that no status is known to come after: how much was delivered, and the earliest that said so.
CREATE TABLE delivery_reports (
    transaction_id uuid NOT NULL REFERENCES transactions,
    delivered_wh   bigint NOT NULL,
    device_id      uuid NOT NULL,
    seq            bigint,
    heard_at       timestamptz NOT NULL,
    PRIMARY KEY (transaction_id, delivered_wh)
);
CREATE INDEX delivery_reports_by_device ON delivery_reports (device_id);

-- What a device's available energy is still to cover.
DROP INDEX transactions_reserving;
CREATE INDEX transactions_reserving ON transactions (device_id)
    WHERE CASE WHEN status = 'Failed' OR delivery IN ('Delivered', 'Short') THEN delivered_wh ELSE energy_wh END > fed_wh;

DROP TRIGGER trade_released ON transactions;
CREATE TRIGGER trade_released BEFORE UPDATE ON transactions FOR EACH ROW
    WHEN (NEW.status = 'Failed' AND OLD.status <> 'Failed'
          OR NEW.delivery IN ('Delivered', 'Short') AND NEW.delivery IS DISTINCT FROM OLD.delivery
          OR NEW.fed_wh > OLD.fed_wh)
    EXECUTE FUNCTION note_released_energy();
