"""Time as the test wants it: in PostgreSQL and on the chain it stands still until it is told to pass.

The product's SQL asks `now()` and `clock_timestamp()` by their bare names, so a schema that comes before `pg_catalog`
answers instead. Each instant differs from the one before by a microsecond, as on a real clock.
"""

from datetime import UTC, datetime
from typing import Final, LiteralString
from urllib.parse import quote

from psycopg import Connection, sql

SEARCH_PATH: Final = "simulated,public,pg_catalog"
_SCHEMA: Final[LiteralString] = """
    CREATE SCHEMA simulated;
    CREATE TABLE simulated.clock (at timestamptz NOT NULL);
    INSERT INTO simulated.clock VALUES ('epoch');
    CREATE SEQUENCE simulated.instants;
    CREATE FUNCTION simulated.now() RETURNS timestamptz STABLE LANGUAGE sql AS 'SELECT at FROM simulated.clock';
    CREATE FUNCTION simulated.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql AS $$
        SELECT at + interval '1 microsecond' * CASE WHEN current_setting('transaction_read_only') = 'off'
                                                    THEN nextval('simulated.instants') ELSE 0 END
        FROM simulated.clock $$;
    GRANT USAGE ON SCHEMA simulated TO energy_market_functions;
    GRANT SELECT ON simulated.clock TO energy_market_functions;
    GRANT USAGE ON SEQUENCE simulated.instants TO energy_market_functions;
"""


def install(conn: Connection) -> None:
    """Give a migrated database the clock. The defaults of columns are bound to a function when they are made."""
    conn.execute(_SCHEMA)
    columns = conn.execute(
        """
        SELECT table_name, column_name, column_default FROM information_schema.columns
        WHERE table_schema = 'public' AND column_default IN ('now()', 'clock_timestamp()')
        """
    ).fetchall()
    assert columns
    for table, column, function in columns:
        conn.execute(
            sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET DEFAULT simulated.{}").format(
                sql.Identifier(table), sql.Identifier(column), sql.SQL(function)
            )
        )


def url_with_clock(url: str, **settings: str) -> str:
    """The same database, for connections that go by its clock; with settings of PostgreSQL's of their own."""
    options = [
        f"-csearch_path={SEARCH_PATH}",
        "-csynchronous_commit=off",
        *(f"-c{name}={value}" for name, value in settings.items()),
    ]
    return f"{url}?options={quote(' '.join(options))}"


def set_clock(conn: Connection, time_s: float) -> None:
    """It is so many Unix seconds, until told otherwise."""
    conn.execute("UPDATE simulated.clock SET at = %s", (datetime.fromtimestamp(time_s, UTC),))
