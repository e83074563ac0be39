"""Go on with a session."""

from collections.abc import Mapping

from energy_market.database import Database
from energy_market.domain import sessions, tokens
from energy_market.domain.errors import Conflict, Unauthorized
from energy_market.postgres import challenges, refresh_tokens
from energy_market.usecases.log_in import Session


def refresh_session(database: Database, *, refresh_token: str, keys: Mapping[str, str]) -> Session:
    """The next pair of tokens; the one given is used up.

    An old token means that two hold this session, one of whom may have stolen it: the session ends for both
    (`refresh_token_reused`). Except the one replaced in the last ten seconds, which is rather a second tab:
    `Conflict`, and nothing is revoked. Opens its own transaction, for the revocation must outlive the refusal.
    """
    given = sessions.parse(refresh_token)
    secret = sessions.new_secret()
    with database.transaction() as conn:
        user_id = refresh_tokens.rotate(
            conn,
            session_id=given.session_id,
            token_hash=given.token_hash,
            next_hash=sessions.hash_of(secret),
            life_s=sessions.LIFE_S,
        )
        if user_id is not None:
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
        standing = refresh_tokens.standing(
            conn, session_id=given.session_id, token_hash=given.token_hash, grace_s=sessions.GRACE_S
        )
        if standing == "used_again":
            refresh_tokens.revoke(conn, given.session_id)
    match standing:
        case "just_replaced":
            raise Conflict("refresh_token_rotated", "This refresh token was replaced moments ago: use its successor.")
        case "used_again":
            raise Unauthorized("refresh_token_reused", "This refresh token was used before: the session is ended.")
        case "over":
            raise sessions.invalid()
