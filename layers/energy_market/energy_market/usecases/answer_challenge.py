"""Check a signature against the open challenges of its wallet."""

from dataclasses import dataclass

from psycopg import Connection

from energy_market.domain.errors import Unauthorized
from energy_market.domain.settings import SignInSettings
from energy_market.domain.wallets import signer_of
from energy_market.postgres import challenges
from energy_market.usecases.open_challenge import challenge_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A signature that a client sends for a wallet. `nonce` names the challenge, `source` the client's address."""

    wallet_address: str  # EIP-55 spelling
    signature: bytes
    nonce: str | None
    source: str


def answer_challenge(conn: Connection, proof: Proof, *, settings: SignInSettings) -> None:
    """Use up the challenge that this wallet signed. Raises `Unauthorized` if it signed no open challenge.

    Domain, URI, chain id, nonce, issue and expiry time (EIP-4361) are those of the text that we wrote and would write
    again now. A challenge of another service on this database, or of a former configuration, does not count as open.
    """
    wallet = bytes.fromhex(proof.wallet_address.removeprefix("0x"))
    for challenge in challenges.candidates(conn, proof.wallet_address, proof.nonce, source=proof.source):
        asked = challenge_of(
            settings,
            wallet_address=proof.wallet_address,
            nonce=challenge.nonce,
            issued_at=challenge.issued_at,
        )
        if (
            challenge.message == asked.message
            and signer_of(challenge.message, proof.signature) == wallet
            and challenges.use(conn, challenge.nonce)
        ):
            return
    raise not_signed_in()


def not_signed_in() -> Unauthorized:
    """One answer for every defect, so that it does not reveal which wallets are registered."""
    return Unauthorized(
        "invalid_signature", "The signature is not one of an open challenge of a registered wallet: ask for a new one."
    )
