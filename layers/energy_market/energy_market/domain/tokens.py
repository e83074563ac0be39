"""Access tokens: JSON Web Tokens (RFC 7519) signed with HMAC-SHA256, and nothing else of that standard.

The algorithm is pinned: a token that names another one is refused before anything in it is believed. Written with the
standard library, since importing a JWT library costs more time than everything here; the tests hold it against PyJWT.
"""

import hashlib
import hmac
import json
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from energy_market.domain.errors import Unauthorized

ACCESS_TOKEN_LIFE: Final = timedelta(minutes=15)
ISSUER: Final = "energy-market"
AUDIENCE: Final = "energy-market-api"
MAX_TOKEN_CHARACTERS: Final = 2048
# Two machines' clocks differ a little; a token must not be "from the future" on its first use.
CLOCK_DIFFERENCE: Final = timedelta(seconds=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who is asking, as the access token says."""

    user_id: UUID
    token_id: str


def new_id() -> str:
    """A token's `jti`."""
    return secrets.token_hex(8)


def issue(*, user_id: UUID, token_id: str, keys: Mapping[str, str], now: datetime) -> str:
    """An access token for 15 minutes. `keys`: key id -> secret, of which the first signs."""
    kid, secret = next(iter(keys.items()))
    issued_at = int(now.timestamp())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": str(user_id),
        "jti": token_id,
        "iat": issued_at,
        "nbf": issued_at,
        "exp": issued_at + int(ACCESS_TOKEN_LIFE.total_seconds()),
    }
    signed = f"{_encoded({'alg': 'HS256', 'kid': kid, 'typ': 'JWT'})}.{_encoded(claims)}"
    return f"{signed}.{_base64url(_mac(secret, signed))}"


def verify(token: str, *, keys: Mapping[str, str], now: datetime) -> Caller:
    """Who this token speaks for. Raises `Unauthorized` (`token_expired`, or `invalid_token` for all else)."""
    if len(token) > MAX_TOKEN_CHARACTERS or not token.isascii() or token.count(".") != 2:  # noqa: PLR2004
        raise _invalid()
    header_text, claims_text, mac_text = token.split(".")
    header = _decoded(header_text)
    kid = header.get("kid")
    secret = keys.get(kid) if isinstance(kid, str) else None
    if header.get("alg") != "HS256" or "crit" in header or secret is None:
        raise _invalid()
    if not hmac.compare_digest(_mac(secret, f"{header_text}.{claims_text}"), _bytes(mac_text)):
        raise _invalid()
    return _caller(_decoded(claims_text), now)


def _caller(claims: Mapping[str, object], now: datetime) -> Caller:
    """The claims of a token whose signature is ours, checked nevertheless: keys outlive versions of this code."""
    subject, token_id = claims.get("sub"), claims.get("jti")
    not_before, expires_at = _time(claims.get("nbf")), _time(claims.get("exp"))
    if claims.get("iss") != ISSUER or claims.get("aud") != AUDIENCE:
        raise _invalid()
    if not isinstance(subject, str) or not isinstance(token_id, str) or not token_id:
        raise _invalid()
    if now + CLOCK_DIFFERENCE < not_before:
        raise _invalid()
    if now >= expires_at:
        raise Unauthorized("token_expired", "The access token has expired: refresh it.")
    try:
        return Caller(user_id=UUID(subject), token_id=token_id)
    except ValueError:
        raise _invalid() from None


def _time(claim: object) -> datetime:
    if isinstance(claim, bool) or not isinstance(claim, int) or not 0 <= claim < 2**40:
        raise _invalid()
    return datetime.fromtimestamp(claim, UTC)


def _mac(secret: str, signed: str) -> bytes:
    return hmac.digest(secret.encode(), signed.encode(), hashlib.sha256)


def _encoded(content: Mapping[str, object]) -> str:
    return _base64url(json.dumps(content, separators=(",", ":")).encode())


def _decoded(text: str) -> dict[str, object]:
    try:
        content = json.loads(_bytes(text))
    except (ValueError, RecursionError):
        raise _invalid() from None
    if not isinstance(content, dict):
        raise _invalid()
    return content


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    """Strict: of several spellings that lenient decoders read as the same bytes, only the canonical one."""
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (Base64Error, ValueError):
        raise _invalid() from None
    if _base64url(data) != text:
        raise _invalid()
    return data


def _invalid() -> Unauthorized:
    return Unauthorized("invalid_token", "The access token is not valid.")
