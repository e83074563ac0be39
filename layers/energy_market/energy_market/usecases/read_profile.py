"""Read a user's data."""

from uuid import UUID

from psycopg import Connection

from energy_market.domain.users import User, unknown_user
from energy_market.postgres import users


def read_profile(conn: Connection, *, user_id: UUID) -> User:
    """The caller's data. Raises `Unauthorized` if the token's user no longer exists."""
    user = users.by_id(conn, user_id)
    if user is None:
        raise unknown_user()
    return user
