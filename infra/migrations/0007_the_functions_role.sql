-- What the functions may do: read and write rows. They own nothing and make nothing, so whoever gets hold of a function
-- can neither change the schema nor switch off a trigger. Who logs in as the functions is in this role; who runs the
-- migrations owns the schema and is not.
DO $$ BEGIN
    -- It is the server's, not the database's, and may have been made before: by an administrator, or for another database.
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'energy_market_functions') THEN
        CREATE ROLE energy_market_functions NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL; -- another database's migrations were as quick
END $$;

REVOKE CREATE ON SCHEMA public FROM PUBLIC; -- as it is by itself since PostgreSQL 15, but not in a database from before
GRANT USAGE ON SCHEMA public TO energy_market_functions;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO energy_market_functions;
-- A table of a later migration, too. What is only added to, or is not the functions' to write, says so itself.
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO energy_market_functions;

-- What happened is only added to.
REVOKE UPDATE, DELETE ON events FROM energy_market_functions;
-- What is ordered, traded and paid, and by whom, is never deleted.
REVOKE DELETE ON users, iot_devices, network_nodes, energy_orders, transactions, settlement_batches,
    settlement_batch_trades, signed_transactions FROM energy_market_functions;
-- Zones and the schema's version are for who runs the market.
REVOKE INSERT, UPDATE, DELETE ON zones, schema_migrations FROM energy_market_functions;
