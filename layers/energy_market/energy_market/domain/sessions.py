"""A session goes on with a refresh token: "<session id>.<secret>", of which the database keeps the secret's hash.

The secret is 256 random bits, so a plain hash is enough: there is nothing to guess.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from energy_market.domain.errors import Unauthorized

LIFE_S: Final = 7 * 24 * 3600
MAX_SESSIONS_OF_A_USER: Final = 50  # one more ends the oldest
# Two tabs of a browser, or a request whose answer got lost, use the same token at nearly the same time.
GRACE_S: Final = 10
_TOKEN: Final = re.compile(
    r"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\.([A-Za-z0-9_-]{43})", re.ASCII
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshToken:
    """A refresh token taken apart."""

    session_id: UUID
    token_hash: bytes


def new_secret() -> str:
    """43 random characters."""
    return secrets.token_urlsafe(32)


def spell(session_id: UUID, secret: str) -> str:
    """The token as a client holds it."""
    return f"{session_id}.{secret}"


def parse(token: str) -> RefreshToken:
    """Raises `Unauthorized` for anything that we cannot have issued."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise invalid()
    return RefreshToken(session_id=UUID(match[1]), token_hash=hash_of(match[2]))


def hash_of(secret: str) -> bytes:
    """What the database keeps."""
    return hashlib.sha256(secret.encode()).digest()


def invalid() -> Unauthorized:
    """The answer for a token that is unknown, expired or revoked."""
    return Unauthorized("invalid_refresh_token", "The refresh token is not valid: log in again.")
