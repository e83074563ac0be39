"""Ask a wallet's owner to prove that they own it."""

import secrets
from datetime import datetime

from psycopg import Connection

from energy_market.domain.settings import SignInSettings
from energy_market.domain.sign_in import Challenge
from energy_market.postgres import challenges


def open_challenge(conn: Connection, *, wallet_address: str, source: str, settings: SignInSettings) -> Challenge:
    """A new message for this wallet to sign. Earlier ones stay open, since anyone may ask for any wallet.

    Whether the wallet is registered is not checked. `source`: the client's address.
    """
    challenge = challenge_of(
        settings,
        wallet_address=wallet_address,
        nonce=secrets.token_hex(16),
        issued_at=challenges.database_time(conn),
    )
    challenges.add(conn, challenge, source=source)
    return challenge


def challenge_of(settings: SignInSettings, *, wallet_address: str, nonce: str, issued_at: datetime) -> Challenge:
    """The message that this service, with its current configuration, asks a wallet's owner to sign."""
    return Challenge(
        wallet_address=wallet_address,
        domain=settings.domain,
        uri=settings.uri,
        chain_id=settings.chain_id,
        nonce=nonce,
        issued_at=issued_at,
    )
