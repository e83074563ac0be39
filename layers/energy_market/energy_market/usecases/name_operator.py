"""Say who of the callers is an operator."""

from collections.abc import Collection
from uuid import UUID

from psycopg import Connection

from energy_market.domain.operators import Operator, not_an_operator
from energy_market.usecases.read_profile import read_profile


def name_operator(conn: Connection, *, user_id: UUID, wallets: Collection[str]) -> Operator:
    """The caller, if his wallet is one of the `wallets` that the configuration names (EIP-55 spelling).

    Looked up at every request: who is no longer named is no operator from the next deploy on, whatever token he has.
    Raises Forbidden for everybody else, Unauthorized if the token's user is no more.
    """
    user = read_profile(conn, user_id=user_id)
    if user.wallet_address not in wallets:
        raise not_an_operator()
    return Operator(user_id=user.id, wallet_address=user.wallet_address)
