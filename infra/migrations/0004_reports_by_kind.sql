-- A device's history is looked at by kind and time: of a device that floods, so many of a kind are kept in ten minutes.
CREATE INDEX device_reports_by_kind ON device_reports (device_id, kind, received_at DESC);
DROP INDEX device_reports_by_device;
