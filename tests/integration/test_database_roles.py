"""What the functions may do in the database, tried as who they log in as: read and write rows, and nothing else."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from energy_market.postgres.migrations import migrate, schema_version
from local_market.parts.postgres import FUNCTIONS_ROLE, LocalPostgres
from tests.support.market import Market
from tests.support.owner import as_functions
from tests.support.places import CHECKOUT, TEMPLATE

MIGRATIONS = CHECKOUT / "infra" / "migrations"
ALL = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"})
KEPT = ALL - {"DELETE"}
# What is not for every function to change as it likes. Of any other table, rows may be read, written and deleted.
NARROWER = {
    "events": {"SELECT", "INSERT"},
    "operator_acts": {"SELECT", "INSERT"},
    "market_state": {"SELECT", "UPDATE"},
    "chain_state": {"SELECT", "UPDATE"},
    "schema_migrations": {"SELECT"},
    "zones": {"SELECT"},
    "users": KEPT,
    "iot_devices": KEPT,
    "device_certificates": KEPT,
    "network_nodes": KEPT,
    "energy_orders": KEPT,
    "transactions": KEPT,
    "settlement_batches": KEPT,
    "settlement_batch_trades": KEPT,
    "signed_transactions": KEPT,
}


@pytest.fixture
def functions(database_url: str, market: Market) -> Iterator[psycopg.Connection]:
    """Somebody who got hold of a function, and so of its connection; there is a trade to be tampered with."""
    market.matched()
    with psycopg.connect(database_url, autocommit=True) as conn:
        assert conn.execute("SELECT count(*) > 0 FROM events").fetchone() == (True,)
        yield conn


@pytest.mark.parametrize(
    "attack",
    [
        "CREATE TABLE mine (id int)",
        "CREATE TABLE mine AS SELECT * FROM users",
        "CREATE VIEW mine AS SELECT * FROM users",
        "CREATE SCHEMA mine",
        "CREATE SEQUENCE mine",
        "CREATE TYPE mine AS ENUM ('a')",
        "ALTER TABLE users ADD COLUMN mine text",
        "ALTER TABLE users ALTER COLUMN kyc_status SET DEFAULT 'Verified'",
        "ALTER TABLE transactions DROP CONSTRAINT transactions_check",
        "ALTER TABLE events DISABLE TRIGGER ALL",
        "ALTER TABLE events DISABLE TRIGGER events_are_append_only",
        "ALTER TABLE users OWNER TO CURRENT_USER",
        "ALTER VIEW order_states RENAME TO mine",
        "DROP TRIGGER events_are_append_only ON events",
        "DROP TABLE events",
        "DROP INDEX open_asks",
        "DROP SCHEMA public CASCADE",
        "CREATE INDEX mine ON users (zone)",
        "CREATE TRIGGER mine BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION refuse_change()",
        "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "DROP FUNCTION refuse_change() CASCADE",
        "TRUNCATE events",
        "TRUNCATE open_orders",
        "UPDATE events SET reason = 'nothing happened'",
        "DELETE FROM events",
        "DELETE FROM operator_acts",
        "UPDATE operator_acts SET reason = 'another'",
        "DELETE FROM market_state",
        "DELETE FROM chain_state",
        "DELETE FROM transactions",
        "DELETE FROM users",
        "INSERT INTO zones (id) VALUES ('mine')",
        "UPDATE schema_migrations SET version = 0",
        "SET session_replication_role = replica",
        "SET ROLE energy_market",
        "CREATE ROLE mine SUPERUSER",
        "ALTER ROLE CURRENT_USER SUPERUSER",
        "GRANT pg_execute_server_program TO CURRENT_USER",
        "ALTER DATABASE postgres SET search_path = mine",
        "ALTER SYSTEM SET fsync = off",
        "COPY users TO PROGRAM 'cat'",
        "COPY users TO '/tmp/users'",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT lo_import('/etc/passwd')",
        "SELECT rolpassword FROM pg_authid",
    ],
)
def test_a_function_cannot(functions: psycopg.Connection, attack: str) -> None:
    with pytest.raises(InsufficientPrivilege):
        functions.execute(attack.encode())


def test_who_the_functions_log_in_as_owns_nothing_and_is_nobody_special(functions: psycopg.Connection) -> None:
    special = functions.execute(
        """
        SELECT rolname FROM pg_roles
        WHERE pg_has_role(current_user, oid, 'MEMBER') AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication
              OR rolbypassrls OR rolname LIKE 'pg\\_%')
        """
    ).fetchall()
    assert special == []
    member_of = functions.execute(
        "SELECT rolname FROM pg_roles WHERE pg_has_role(current_user, oid, 'MEMBER') AND rolname <> current_user"
    ).fetchall()
    assert member_of == [(FUNCTIONS_ROLE,)]
    owned = functions.execute(
        """
        SELECT classid::regclass, objid FROM pg_shdepend
        WHERE refclassid = 'pg_authid'::regclass AND deptype = 'o' AND pg_has_role(current_user, refobjid, 'MEMBER')
        """
    ).fetchall()
    assert owned == []


def test_what_the_functions_may_do_with_each_table_is_what_is_written_here(functions: psycopg.Connection) -> None:
    held: dict[str, set[str]] = {}
    for table, privilege in functions.execute(
        """
        SELECT c.relname, p.privilege FROM pg_class c
        CROSS JOIN unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) p (privilege)
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
          AND has_table_privilege(c.oid, p.privilege)
        """
    ):
        held.setdefault(table, set()).add(privilege)
    assert held.keys() >= NARROWER.keys()
    assert held == {table: NARROWER.get(table, ALL) for table in held}


@pytest.fixture
def plain_owner(server: LocalPostgres) -> Iterator[str]:
    """A database with nothing in it, of an owner who may make no roles; his URL."""
    name = f"plain_{uuid4().hex[:8]}"
    quoted = sql.Identifier(name)
    with psycopg.connect(server.url, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'x'").format(quoted))
        conn.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(quoted, quoted))
        yield f"postgresql://{name}:x@{server.url.rpartition('@')[2].rpartition('/')[0]}/{name}"
        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(quoted))
        conn.execute(sql.SQL("DROP ROLE {}").format(quoted))


def test_an_owner_who_is_no_superuser_migrates_and_a_later_table_is_the_functions_to_use(
    server: LocalPostgres, plain_owner: str, tmp_path: Path
) -> None:
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder)
    version = len(list(folder.iterdir())) + 1
    (folder / f"{version:04}_later.sql").write_text(
        "CREATE TABLE later (id bigint GENERATED ALWAYS AS IDENTITY, a int)"
    )
    with psycopg.connect(plain_owner, autocommit=True) as conn:
        migrate(conn, folder)
    with psycopg.connect(as_functions(server, plain_owner.rpartition("/")[2]), autocommit=True) as conn:
        assert schema_version(conn) == version
        conn.execute("INSERT INTO later (a) VALUES (1)")
        conn.execute("UPDATE later SET a = 2")
        assert conn.execute("DELETE FROM later RETURNING a").fetchall() == [(2,)]
        with pytest.raises(InsufficientPrivilege):
            conn.execute("ALTER TABLE later ADD COLUMN b int")


def test_nobody_else_of_the_server_may_read_the_market(server: LocalPostgres) -> None:
    name = f"somebody_{uuid4().hex[:8]}"
    with psycopg.connect(server.url, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'x'").format(sql.Identifier(name)))
        host = server.url.rpartition("@")[2].rpartition("/")[0]
        with psycopg.connect(f"postgresql://{name}:x@{host}/{TEMPLATE}", autocommit=True) as somebody:
            for statement in ("SELECT FROM users", "CREATE TABLE mine ()"):
                with pytest.raises(InsufficientPrivilege):
                    somebody.execute(statement.encode())
        conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
