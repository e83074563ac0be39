"""A user: the owner of a wallet."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from energy_market.domain.errors import Forbidden, Unauthorized

KycStatus = Literal["Unverified", "Pending", "Verified", "Refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """The specification's fields, and every role gained so far; `role` is the latest of `roles`."""

    id: UUID
    wallet_address: str  # EIP-55 spelling
    role: str  # Donor, Recipient or NetworkNodeOperator
    roles: list[str]
    zone: str
    location: str | None
    kyc_status: KycStatus
    created_at: datetime


def unknown_user() -> Unauthorized:
    """The answer to a valid token whose user is not in this database."""
    return Unauthorized("unknown_user", "The user of this access token does not exist.")


def kyc_required(status: KycStatus) -> Forbidden:
    """The answer to an order from an unverified user, where the market requires verified users."""
    return Forbidden("kyc_required", f"Only verified users trade here, and you are {status}.")
