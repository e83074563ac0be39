"""Continue a session."""

from collections.abc import Mapping
from uuid import UUID

from psycopg import Connection

from energy_market.database import Database
from energy_market.domain import sessions, tokens
from energy_market.domain.errors import Unauthorized
from energy_market.domain.sessions import RefreshToken
from energy_market.postgres import challenges, refresh_tokens
from energy_market.usecases.log_in import Session


def refresh_session(database: Database, *, refresh_token: str, keys: Mapping[str, str]) -> Session:
    """The next pair of tokens; the given token is used up.

    A token whose answer was lost, or that a second tab sends, yields the same successor again, until that successor is
    used, and for ten minutes at most. Any other old token means that two clients hold this session, and one of them may
    have stolen it: the session ends for both (`refresh_token_reused`). This function opens its own transaction, because
    the revocation must outlive the refusal.

    `keys`: by key id. The first derives a successor; any of them may have derived an earlier one. Without that key, the
    successor cannot be derived again (`invalid_refresh_token`), and the session goes on.
    """
    given = sessions.parse(refresh_token)
    successors = [given.successor(key) for key in keys.values()]
    with database.transaction() as conn:
        user_id = refresh_tokens.rotate(
            conn,
            session_id=given.session_id,
            token_hash=given.token_hash,
            next_hash=sessions.hash_of(successors[0]),
            life_s=sessions.LIFE_S,
        )
        if user_id is not None:
            return _session(conn, given, user_id=user_id, secret=successors[0], keys=keys)
        standing = refresh_tokens.standing(
            conn, session_id=given.session_id, token_hash=given.token_hash, within_s=sessions.HAD_AGAIN_S
        )
        if standing is None:
            raise sessions.invalid()
        if standing.token_hash is not None:
            for secret in successors:
                if sessions.hash_of(secret) == standing.token_hash:
                    return _session(conn, given, user_id=standing.user_id, secret=secret, keys=keys)
            raise sessions.invalid()
        refresh_tokens.revoke(conn, given.session_id)
    raise Unauthorized("refresh_token_reused", "This refresh token was used before: the session is ended.")


def _session(conn: Connection, given: RefreshToken, *, user_id: UUID, secret: str, keys: Mapping[str, str]) -> Session:
    return Session(
        user_id=user_id,
        access_token=tokens.issue(
            user_id=user_id,
            session_id=given.session_id,
            token_id=tokens.new_id(),
            keys=keys,
            now=challenges.database_time(conn),
        ),
        refresh_token=sessions.spell(given.session_id, secret),
    )
