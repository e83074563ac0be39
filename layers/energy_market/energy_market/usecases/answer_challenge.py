"""Check a signature against the open challenges of its wallet."""

from psycopg import Connection

from energy_market.domain.errors import Unauthorized
from energy_market.domain.wallets import signer_of
from energy_market.postgres import challenges


def answer_challenge(conn: Connection, *, wallet_address: str, signature: bytes, nonce: str | None) -> None:
    """Use up the challenge that this wallet signed; raises `Unauthorized` if it signed none that is open."""
    wallet = bytes.fromhex(wallet_address.removeprefix("0x"))
    for challenge in challenges.candidates(conn, wallet_address, nonce):
        if signer_of(challenge.message, signature) == wallet and challenges.use(conn, challenge.nonce):
            return
    raise not_signed_in()


def not_signed_in() -> Unauthorized:
    """One answer for all that can be wrong, so that it does not tell which wallets are registered."""
    return Unauthorized(
        "invalid_signature", "The signature is not one of an open challenge of a registered wallet: ask for a new one."
    )
