"""A session continues with a refresh token, "<session id>.<secret>"; the database keeps only the secret's hash.

A session's first secret is 256 random bits. Each later one is derived from its predecessor under a configured key, so a
client that lost an answer can get it again although the database holds only hashes. A plain hash is enough, because a
secret cannot be guessed.
"""

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from energy_market.domain.errors import Unauthorized

LIFE_S: Final = 7 * 24 * 3600
MAX_SESSIONS_OF_A_USER: Final = 50  # one more session ends the oldest
HAD_AGAIN_S: Final = 600
"""Seconds after its rotation in which a token yields its successor again, as long as that successor is unused."""
_SUCCESSOR: Final = b"refresh token's successor\0"
_TOKEN: Final = re.compile(
    r"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\.([A-Za-z0-9_-]{43})", re.ASCII
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshToken:
    """A refresh token taken apart."""

    session_id: UUID
    secret: str = field(repr=False)

    @property
    def token_hash(self) -> bytes:
        """The hash that the database keeps."""
        return hash_of(self.secret)

    def successor(self, key: str) -> str:
        """The secret that follows this one: 43 characters, the same every time (HMAC-SHA256 under `key`)."""
        spelled = spell(self.session_id, self.secret)
        digest = hmac.digest(key.encode(), _SUCCESSOR + spelled.encode(), "sha256")
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def new_secret() -> str:
    """43 random characters."""
    return secrets.token_urlsafe(32)


def spell(session_id: UUID, secret: str) -> str:
    """The token as its client holds it."""
    return f"{session_id}.{secret}"


def parse(token: str) -> RefreshToken:
    """A token's parts. Raises `Unauthorized` for a token that we cannot have issued."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise invalid()
    return RefreshToken(session_id=UUID(match[1]), secret=match[2])


def hash_of(secret: str) -> bytes:
    """The hash that the database keeps."""
    return hashlib.sha256(secret.encode()).digest()


def invalid() -> Unauthorized:
    """The answer for a token that is unknown, expired or revoked."""
    return Unauthorized("invalid_refresh_token", "The refresh token is not valid: log in again.")
