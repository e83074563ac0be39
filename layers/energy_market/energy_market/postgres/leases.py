"""Leases: each allows one holder at a time to do something."""

from uuid import UUID

from psycopg import Connection


def acquire(conn: Connection, name: str, *, holder: UUID, lease_s: float) -> bool:
    """Take the lease for `lease_s` seconds, unless another holder's is still running."""
    return (
        conn.execute(
            """
            INSERT INTO leases (name, holder, expires_at)
            VALUES (%s, %s, clock_timestamp() + make_interval(secs => %s))
            ON CONFLICT (name) DO UPDATE SET holder = EXCLUDED.holder, expires_at = EXCLUDED.expires_at
            WHERE leases.expires_at <= clock_timestamp() OR leases.holder = EXCLUDED.holder
            """,
            (name, holder, lease_s),
        ).rowcount
        == 1
    )


def still_held(conn: Connection, name: str, *, holder: UUID) -> bool:
    """Whether the lease is still the holder's; if so, nobody can take it before this transaction ends."""
    row = conn.execute(
        "SELECT FROM leases WHERE name = %s AND holder = %s AND expires_at > clock_timestamp() FOR SHARE",
        (name, holder),
    ).fetchone()
    return row is not None


def release(conn: Connection, name: str, *, holder: UUID) -> None:
    """Give the lease back before it expires."""
    conn.execute("DELETE FROM leases WHERE name = %s AND holder = %s", (name, holder))


def clear(conn: Connection, name: str) -> None:
    """End the lease, whoever holds it."""
    conn.execute("DELETE FROM leases WHERE name = %s", (name,))
