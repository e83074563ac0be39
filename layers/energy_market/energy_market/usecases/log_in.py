"""Begin a session."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from psycopg import Connection

from energy_market.domain import sessions, tokens
from energy_market.domain.settings import SignInSettings
from energy_market.postgres import challenges, refresh_tokens, users
from energy_market.usecases.answer_challenge import Proof, answer_challenge, not_signed_in


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A client's pair of tokens: one for requests, and one to get the next pair."""

    user_id: UUID
    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)


def log_in(conn: Connection, proof: Proof, *, settings: SignInSettings, keys: Mapping[str, str]) -> Session:
    """Open a session for a registered wallet that signed an open challenge.

    Raises the same `Unauthorized` for an unknown wallet as for a wrong signature.
    """
    answer_challenge(conn, proof, settings=settings)
    user = users.by_wallet(conn, proof.wallet_address)
    if user is None:
        raise not_signed_in()
    secret = sessions.new_secret()
    session_id = refresh_tokens.open_session(
        conn,
        user_id=user.id,
        token_hash=sessions.hash_of(secret),
        life_s=sessions.LIFE_S,
        most=sessions.MAX_SESSIONS_OF_A_USER,
    )
    return Session(
        user_id=user.id,
        access_token=tokens.issue(
            user_id=user.id,
            session_id=session_id,
            token_id=tokens.new_id(),
            keys=keys,
            now=challenges.database_time(conn),
        ),
        refresh_token=sessions.spell(session_id, secret),
    )
