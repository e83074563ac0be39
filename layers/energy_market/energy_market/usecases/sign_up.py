"""Register the owner of a wallet."""

from psycopg import Connection

from energy_market.domain.errors import Conflict
from energy_market.domain.users import User
from energy_market.postgres import users
from energy_market.usecases.answer_challenge import answer_challenge


def sign_up(conn: Connection, *, wallet_address: str, signature: bytes, nonce: str | None) -> User:
    """A new user, who signed an open challenge.

    Raises `Unauthorized`, or `Conflict` for a wallet that is registered; the challenge then stays open for a login.
    """
    answer_challenge(conn, wallet_address=wallet_address, signature=signature, nonce=nonce)
    user = users.add(conn, wallet_address)
    if user is None:
        raise Conflict("wallet_already_registered", "This wallet is registered already: log in.")
    return user
