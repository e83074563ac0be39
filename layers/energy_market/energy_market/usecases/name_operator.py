"""Decide whether a caller is an operator."""

from collections.abc import Collection
from uuid import UUID

from psycopg import Connection

from energy_market.domain.operators import Operator, not_an_operator
from energy_market.usecases.read_profile import read_profile


def name_operator(conn: Connection, *, user_id: UUID, wallets: Collection[str]) -> Operator:
    """The caller as an operator, if their wallet is among the configured `wallets` (EIP-55 spelling).

    Checked at every request: a user who is no longer configured is no operator after the next deploy, whatever their
    token says. Raises Forbidden for all other users, and Unauthorized if the token's user no longer exists.
    """
    user = read_profile(conn, user_id=user_id)
    if user.wallet_address not in wallets:
        raise not_an_operator()
    return Operator(user_id=user.id, wallet_address=user.wallet_address)
