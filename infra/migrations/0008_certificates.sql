-- Which certificates speak for a device: a message counts only under one of these.

CREATE TABLE device_certificates (
    id           text PRIMARY KEY CHECK (id ~ '^[0-9a-f]{64}$'), -- AWS IoT's: its SHA-256, which a rule's principal() gives
    device_id    uuid NOT NULL REFERENCES iot_devices,
    issued_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    activated_at timestamptz,  -- null: the broker does not let it in yet
    heard_at     timestamptz,  -- the first message under it
    valid_until  timestamptz,  -- from then on it says nothing; null while nobody has ended it
    deleted_at   timestamptz   -- AWS IoT has it no more
);
REVOKE DELETE ON device_certificates FROM energy_market_functions; -- which key spoke for a device, and when
CREATE INDEX device_certificates_by_device ON device_certificates (device_id, issued_at);

-- When what AWS IoT has of a device is to be made what it should be here; null: there is nothing to be done.
ALTER TABLE iot_devices ADD COLUMN tidy_at timestamptz;
CREATE INDEX iot_devices_to_tidy ON iot_devices (tidy_at) WHERE tidy_at IS NOT NULL;
DROP INDEX iot_devices_provisioning;

INSERT INTO device_certificates (id, device_id, issued_at, activated_at)
SELECT right(certificate_arn, 64), id, created_at, created_at FROM iot_devices
WHERE status IN ('Registered', 'Online', 'Offline') AND certificate_arn ~ '/[0-9a-f]{64}$';
UPDATE iot_devices SET tidy_at = created_at WHERE status = 'Provisioning';

-- `certificate_arn` is from here on written by the software before this only, which runs on until a deploy has ended.
CREATE FUNCTION note_certificate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO device_certificates (id, device_id, activated_at) VALUES (right(NEW.certificate_arn, 64), NEW.id, now());
    RETURN NULL;
END $$;
CREATE TRIGGER certificate_noted AFTER UPDATE OF certificate_arn ON iot_devices FOR EACH ROW
    WHEN (NEW.certificate_arn ~ '/[0-9a-f]{64}$') EXECUTE FUNCTION note_certificate();
