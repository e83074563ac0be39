"""End a session."""

from psycopg import Connection

from energy_market.domain import sessions
from energy_market.postgres import refresh_tokens


def log_out(conn: Connection, *, refresh_token: str) -> None:
    """Revoke the session of this token, and with it the session's access tokens.

    An ended session may be ended again without an error; a malformed token raises Unauthorized.
    """
    given = sessions.parse(refresh_token)
    refresh_tokens.revoke_with_token(conn, session_id=given.session_id, token_hash=given.token_hash)
