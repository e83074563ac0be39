"""Ask a wallet's owner to prove it."""

import secrets

from psycopg import Connection

from energy_market.config import SignInSettings
from energy_market.domain.sign_in import Challenge
from energy_market.postgres import challenges


def open_challenge(conn: Connection, *, wallet_address: str, settings: SignInSettings) -> Challenge:
    """A new message for this wallet to sign. Anyone may ask for anyone's, so it leaves the earlier ones open."""
    challenge = Challenge(
        wallet_address=wallet_address,
        domain=settings.domain,
        uri=settings.uri,
        chain_id=settings.chain_id,
        nonce=secrets.token_hex(16),
        issued_at=challenges.database_time(conn),
    )
    challenges.add(conn, challenge)
    return challenge
