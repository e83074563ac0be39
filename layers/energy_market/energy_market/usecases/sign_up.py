"""Register the owner of a wallet."""

from psycopg import Connection

from energy_market.domain.errors import Conflict
from energy_market.domain.settings import SignInSettings
from energy_market.domain.users import User
from energy_market.postgres import users
from energy_market.usecases.answer_challenge import Proof, answer_challenge


def sign_up(conn: Connection, proof: Proof, *, settings: SignInSettings) -> User:
    """Register a new user, who signed an open challenge.

    Raises `Unauthorized`, or `Conflict` for a wallet that is registered; only its owner, who signed, learns that. The
    challenge then stays open for a login.
    """
    answer_challenge(conn, proof, settings=settings)
    user = users.add(conn, proof.wallet_address)
    if user is None:
        raise Conflict("wallet_already_registered", "This wallet is registered already: log in.")
    return user
