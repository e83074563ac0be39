"""Zones: one book each."""

from psycopg import Connection


def try_lock(conn: Connection, zone: str) -> bool:
    """Be the only tick of this zone until the transaction ends; False if there is one already."""
    row = conn.execute("SELECT pg_try_advisory_xact_lock(hashtext('tick'), hashtext(%s))", (zone,)).fetchone()
    assert row is not None  # a SELECT of a function returns one row
    return bool(row[0])


def all_zones(conn: Connection) -> list[str]:
    """Every zone, by name."""
    return [row[0] for row in conn.execute("SELECT id FROM zones ORDER BY id").fetchall()]
