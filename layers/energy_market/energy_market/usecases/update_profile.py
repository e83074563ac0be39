"""Change a user's own data."""

from uuid import UUID

from psycopg import Connection

from energy_market.domain.users import User, unknown_user
from energy_market.postgres import users


def update_profile(conn: Connection, *, user_id: UUID, location: str | None) -> User:
    """Set a user's location (None removes it). Raises `Unauthorized` if the token's user no longer exists."""
    user = users.relocate(conn, user_id, location)
    if user is None:
        raise unknown_user()
    return user
