"""A user: the owner of a wallet."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Fields of the specification, plus every role gained so far; `role` is the latest of `roles`."""

    id: UUID
    wallet_address: str  # EIP-55 spelling
    role: str  # Donor, Recipient or NetworkNodeOperator
    roles: list[str]
    zone: str
    location: str | None
    kyc_status: str
    created_at: datetime
