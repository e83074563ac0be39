"""The table of users."""

from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row

from energy_market.domain.users import User, unknown_user

_COLUMNS = "id, wallet_address, role, roles, zone, location, kyc_status, created_at"


def add(conn: Connection, wallet_address: str) -> User | None:
    """Register a wallet's owner; None if the wallet is registered already.

    The unique key decides, so that of two simultaneous sign-ups one succeeds.
    """
    with conn.cursor(row_factory=class_row(User)) as cursor:
        return cursor.execute(
            f"INSERT INTO users (wallet_address) VALUES (%s) ON CONFLICT DO NOTHING RETURNING {_COLUMNS}",
            (wallet_address,),
        ).fetchone()


def by_wallet(conn: Connection, wallet_address: str) -> User | None:
    """The owner of a wallet (EIP-55 spelling)."""
    with conn.cursor(row_factory=class_row(User)) as cursor:
        return cursor.execute(
            f"SELECT {_COLUMNS} FROM users WHERE wallet_address = %s",
            (wallet_address,),
        ).fetchone()


def by_id(conn: Connection, user_id: UUID) -> User | None:
    """One user."""
    with conn.cursor(row_factory=class_row(User)) as cursor:
        return cursor.execute(f"SELECT {_COLUMNS} FROM users WHERE id = %s", (user_id,)).fetchone()


def relocate(conn: Connection, user_id: UUID, location: str | None) -> User | None:
    """Change where a user is; None if there is no such user."""
    with conn.cursor(row_factory=class_row(User)) as cursor:
        return cursor.execute(
            f"UPDATE users SET location = %s WHERE id = %s RETURNING {_COLUMNS}",
            (location, user_id),
        ).fetchone()


def gain_role(conn: Connection, user_id: UUID, role: str) -> None:
    """Add a role to a user who lacks it; it then is the latest, and so the user's `role`."""
    conn.execute(
        "UPDATE users SET roles = roles || %s::text WHERE id = %s AND NOT roles @> ARRAY[%s::text]",
        (role, user_id, role),
    )


def zone_of(conn: Connection, user_id: UUID, *, share_lock: bool) -> str:
    """A user's zone. With `share_lock`, nobody registers a device for the user until this one ends (see `lock`)."""
    row = conn.execute(
        "SELECT zone FROM users WHERE id = %s FOR SHARE" if share_lock else "SELECT zone FROM users WHERE id = %s",
        (user_id,),
    ).fetchone()
    if row is None:
        raise unknown_user()
    zone: str = row[0]
    return zone


def lock(conn: Connection, user_id: UUID) -> None:
    """Let nobody else change what hangs on this user, an order's device above all, until this transaction ends."""
    if conn.execute("SELECT FROM users WHERE id = %s FOR NO KEY UPDATE", (user_id,)).rowcount == 0:
        raise unknown_user()
