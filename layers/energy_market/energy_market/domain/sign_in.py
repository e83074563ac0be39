"""The text a wallet's owner signs to sign in (EIP-4361, "Sign-In with Ethereum")."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

CHALLENGE_LIFE: Final = timedelta(minutes=5)
STATEMENT: Final = "Sign in to the energy market. This costs nothing and moves nothing."


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """A message that a wallet is asked to sign before it expires. The nonce makes each message unique."""

    wallet_address: str  # EIP-55 spelling
    domain: str
    uri: str
    chain_id: int
    nonce: str
    issued_at: datetime

    def __post_init__(self) -> None:
        """Refuse fields that could forge other fields, and short nonces, which could be guessed.

        EIP-4361's grammar has no letters beyond ASCII: such a domain is spelt in Punycode, and such a URI is
        percent-encoded.
        """
        fields = self.domain + self.uri + self.wallet_address
        if not (fields.isascii() and fields.isprintable()) or " " in fields:
            raise ValueError("A field of a sign-in message holds a blank, a control character or one beyond ASCII.")
        if len(self.nonce) < 16 or not (self.nonce.isascii() and self.nonce.isalnum()):  # noqa: PLR2004
            raise ValueError("A nonce must have at least 16 letters and digits.")
        if self.issued_at.tzinfo is None:
            raise ValueError("A sign-in message needs a time with its zone.")

    @property
    def expires_at(self) -> datetime:
        """The time after which an answer is too late."""
        return self.issued_at + CHALLENGE_LIFE

    @property
    def message(self) -> str:
        """The text, exactly in the layout of EIP-4361."""
        return (
            f"{self.domain} wants you to sign in with your Ethereum account:\n"
            f"{self.wallet_address}\n"
            "\n"
            f"{STATEMENT}\n"
            "\n"
            f"URI: {self.uri}\n"
            "Version: 1\n"
            f"Chain ID: {self.chain_id}\n"
            f"Nonce: {self.nonce}\n"
            f"Issued At: {_rfc3339(self.issued_at)}\n"
            f"Expiration Time: {_rfc3339(self.expires_at)}"
        )


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
