-- The book by price, so that nobody adds up a million orders to look at it.

CREATE TABLE price_levels (
    zone        text NOT NULL,
    type        text NOT NULL,
    price_micro bigint NOT NULL, -- 0: all of the side together
    energy_wh   bigint NOT NULL,
    orders      bigint NOT NULL,
    PRIMARY KEY (zone, type, price_micro)
);
INSERT INTO price_levels (zone, type, price_micro, energy_wh, orders)
SELECT zone, type, coalesce(price_micro, 0), sum(remaining_wh), count(*)
FROM open_orders GROUP BY GROUPING SETS ((zone, type, price_micro), (zone, type));

-- What has changed since the levels were added up. Rows are only added here, so that nobody who writes in the book waits
-- for anybody else; the loop moves them into the levels every few seconds. The two together are the book, at any moment.
CREATE TABLE level_changes (
    zone        text NOT NULL,
    type        text NOT NULL,
    price_micro bigint NOT NULL,
    energy_wh   bigint NOT NULL,
    orders      bigint NOT NULL
);

-- By triggers, so that no statement can forget to.
CREATE FUNCTION note_orders_in() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO level_changes (zone, type, price_micro, energy_wh, orders)
    SELECT zone, type, price_micro, sum(remaining_wh), count(*) FROM new_rows GROUP BY zone, type, price_micro;
    RETURN NULL;
END $$;
CREATE TRIGGER orders_in AFTER INSERT ON open_orders
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION note_orders_in();

CREATE FUNCTION note_orders_out() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO level_changes (zone, type, price_micro, energy_wh, orders)
    SELECT zone, type, price_micro, -sum(remaining_wh), -count(*) FROM old_rows GROUP BY zone, type, price_micro;
    RETURN NULL;
END $$;
CREATE TRIGGER orders_out AFTER DELETE ON open_orders
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION note_orders_out();

CREATE FUNCTION note_orders_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO level_changes (zone, type, price_micro, energy_wh, orders)
    SELECT zone, type, price_micro, sum(energy_wh), sum(orders)
    FROM (SELECT zone, type, price_micro, remaining_wh AS energy_wh, 1 AS orders FROM new_rows
          UNION ALL
          SELECT zone, type, price_micro, -remaining_wh, -1 FROM old_rows) changes
    GROUP BY zone, type, price_micro HAVING sum(energy_wh) <> 0 OR sum(orders) <> 0;
    RETURN NULL;
END $$;
CREATE TRIGGER orders_changed AFTER UPDATE ON open_orders
    REFERENCING NEW TABLE AS new_rows OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION note_orders_changed();

-- A page of a zone's orders passes over no other zone's.
CREATE INDEX open_orders_of_zone ON open_orders (zone, arrival);
