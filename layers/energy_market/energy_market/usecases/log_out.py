"""End a session."""

from psycopg import Connection

from energy_market.domain import sessions
from energy_market.postgres import refresh_tokens


def log_out(conn: Connection, *, refresh_token: str) -> None:
    """Revoke the session of this token, and with it the access tokens that were given out in it.

    To end an ended session is no error; a token of another shape is.
    """
    given = sessions.parse(refresh_token)
    refresh_tokens.revoke_with_token(conn, session_id=given.session_id, token_hash=given.token_hash)
