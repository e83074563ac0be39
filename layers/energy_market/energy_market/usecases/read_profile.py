"""Read what is known of a user."""

from uuid import UUID

from psycopg import Connection

from energy_market.domain.users import User, unknown_user
from energy_market.postgres import users


def read_profile(conn: Connection, *, user_id: UUID) -> User:
    """The caller. Raises `Unauthorized` if the token's user is no more."""
    user = users.by_id(conn, user_id)
    if user is None:
        raise unknown_user()
    return user
