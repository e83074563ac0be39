-- An order's status, and the append-only record of every transition.

-- Remaining = size - its trades that have not failed. `closed` wins over everything, for good.
CREATE VIEW order_states AS
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
          SELECT energy_wh, status FROM transactions WHERE buy_order_id = o.id) t
) t;

CREATE TABLE events (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    entity      text NOT NULL CHECK (entity IN ('order', 'trade', 'device')),
    entity_id   uuid NOT NULL,
    from_status text,
    to_status   text NOT NULL,
    reason      text,
    at          timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX events_by_entity ON events (entity_id, id DESC);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'events are append-only';
END $$;
CREATE TRIGGER events_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Triggers write the events, so that no statement that makes a transition can forget to.

-- An order's status follows from its trades, so what changed is what differs from its last event. The rows are locked
-- first: of two trades of one order that change at once, the second then sees the first.
CREATE FUNCTION record_order_transitions(order_ids uuid[], why text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM energy_orders WHERE id = ANY (order_ids) ORDER BY id FOR NO KEY UPDATE;
    INSERT INTO events (entity, entity_id, from_status, to_status, reason)
    SELECT 'order', s.id, last.to_status, s.status, coalesce(s.reason, why)
    FROM order_states s
    CROSS JOIN LATERAL (SELECT e.to_status FROM events e WHERE e.entity_id = s.id ORDER BY e.id DESC LIMIT 1) last
    WHERE s.id = ANY (order_ids) AND s.status <> last.to_status;
END $$;

CREATE FUNCTION order_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO events (entity, entity_id, to_status) SELECT 'order', id, 'Created' FROM new_rows ORDER BY arrival;
    RETURN NULL;
END $$;
CREATE TRIGGER order_inserted AFTER INSERT ON energy_orders
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION order_inserted();

CREATE FUNCTION order_updated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM record_order_transitions(array_agg(n.id), NULL)
    FROM new_rows n JOIN old_rows o USING (id) WHERE n.closed IS DISTINCT FROM o.closed HAVING count(*) > 0;
    RETURN NULL;
END $$;
CREATE TRIGGER order_updated AFTER UPDATE ON energy_orders
    REFERENCING NEW TABLE AS new_rows OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION order_updated();

-- A trade is born of two open orders ('Created'); one that left the book with it is 'Matched' now.
CREATE FUNCTION trades_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO events (entity, entity_id, to_status) SELECT 'trade', id, status FROM new_rows ORDER BY seq;
    INSERT INTO events (entity, entity_id, from_status, to_status)
    SELECT 'order', filled.id, 'Created', 'Matched'
    FROM (SELECT sell_order_id AS id FROM new_rows UNION SELECT buy_order_id FROM new_rows) filled
    WHERE NOT EXISTS (SELECT FROM open_orders WHERE order_id = filled.id);
    RETURN NULL;
END $$;
CREATE TRIGGER trades_inserted AFTER INSERT ON transactions
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION trades_inserted();

CREATE FUNCTION trades_updated() RETURNS trigger LANGUAGE plpgsql AS $$
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
    RETURN NULL;
END $$;
CREATE TRIGGER trades_updated AFTER UPDATE ON transactions
    REFERENCING NEW TABLE AS new_rows OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION trades_updated();

CREATE FUNCTION device_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO events (entity, entity_id, to_status) SELECT 'device', id, status FROM new_rows;
    RETURN NULL;
END $$;
CREATE TRIGGER device_inserted AFTER INSERT ON iot_devices
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION device_inserted();

CREATE FUNCTION device_updated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO events (entity, entity_id, from_status, to_status)
    SELECT 'device', n.id, o.status, n.status FROM new_rows n JOIN old_rows o USING (id) WHERE n.status <> o.status;
    RETURN NULL;
END $$;
CREATE TRIGGER device_updated AFTER UPDATE ON iot_devices
    REFERENCING NEW TABLE AS new_rows OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION device_updated();
