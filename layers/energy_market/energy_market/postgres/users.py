"""The table of users."""

from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row, dict_row

from energy_market.domain.users import KycStatus, User, unknown_user

_COLUMNS = "id, wallet_address, role, roles, zone, location, kyc_status, created_at"


def add(conn: Connection, wallet_address: str) -> User | None:
    """Register a wallet's owner; None if the wallet is registered already.

    The unique key decides: one of two simultaneous sign-ups succeeds.
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
    """Change a user's location; None if there is no such user."""
    with conn.cursor(row_factory=class_row(User)) as cursor:
        return cursor.execute(
            f"UPDATE users SET location = %s WHERE id = %s RETURNING {_COLUMNS}",
            (location, user_id),
        ).fetchone()


def gain_role(conn: Connection, user_id: UUID, role: str) -> None:
    """Add a role to a user who lacks it. It becomes the latest one, and thereby the user's `role`."""
    conn.execute(
        "UPDATE users SET roles = roles || %s::text WHERE id = %s AND NOT roles @> ARRAY[%s::text]",
        (role, user_id, role),
    )


def zone_of(conn: Connection, user_id: UUID) -> str:
    """A user's zone. Raises `Unauthorized` if there is no such user."""
    row = conn.execute("SELECT zone FROM users WHERE id = %s", (user_id,)).fetchone()
    if row is None:
        raise unknown_user()
    zone: str = row[0]
    return zone


def hold_shared(conn: Connection, user_id: UUID) -> None:
    """Let nobody register a device for a user until this transaction ends; others may hold the row like this, too."""
    if conn.execute("SELECT FROM users WHERE id = %s FOR SHARE", (user_id,)).rowcount == 0:
        raise unknown_user()


def lock(conn: Connection, user_id: UUID) -> None:
    """Until this transaction ends, let nobody else change the user's data, above all their orders' device."""
    if conn.execute("SELECT FROM users WHERE id = %s FOR NO KEY UPDATE", (user_id,)).rowcount == 0:
        raise unknown_user()


def hold(conn: Connection, user_id: UUID) -> User | None:
    """A user, whose row nobody else changes until this transaction ends."""
    with conn.cursor(row_factory=class_row(User)) as cursor:
        return cursor.execute(f"SELECT {_COLUMNS} FROM users WHERE id = %s FOR NO KEY UPDATE", (user_id,)).fetchone()


def set_kyc_status(conn: Connection, user_id: UUID, kyc_status: KycStatus) -> User:
    """Set whether a user's identity is verified; a trigger marks their orders in the book."""
    with conn.cursor(row_factory=class_row(User)) as cursor:
        user = cursor.execute(
            f"UPDATE users SET kyc_status = %s WHERE id = %s RETURNING {_COLUMNS}", (kyc_status, user_id)
        ).fetchone()
    assert user is not None  # the caller holds the row
    return user


def page(
    conn: Connection,
    *,
    wallet_address: str | None = None,
    kyc_status: KycStatus | None = None,
    after_no: int = 0,
    limit: int,
) -> list[tuple[int, User]]:
    """(Number, user) by number, after `after_no`; filtered by wallet (EIP-55 spelling) and status, if given."""
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            f"""
            SELECT no, {_COLUMNS} FROM users
            WHERE no > %(after)s AND (%(wallet)s::text IS NULL OR wallet_address = %(wallet)s)
              AND (%(status)s::text IS NULL OR kyc_status = %(status)s)
            ORDER BY no LIMIT %(limit)s
            """,
            {"after": after_no, "wallet": wallet_address, "status": kyc_status, "limit": limit},
        ).fetchall()
    return [(row.pop("no"), User(**row)) for row in rows]
