"""Operators of the market: whoever signs in with a wallet that the configuration names, and nobody else."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from energy_market.domain.errors import Forbidden

ActKind = Literal["market.pause", "market.resume", "user.kyc_status", "device.revoke", "dead_letters.replay"]
MAX_REASON_CHARACTERS: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """Who acts."""

    user_id: UUID
    wallet_address: str  # EIP-55 spelling


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """What an operator did, to what, and why. `before` and `after` are of what it changed."""

    id: int
    operator_id: UUID
    wallet_address: str
    act: ActKind
    subject: str | None
    before: str | None
    after: str | None
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketState:
    """Whether the market is paused, and since when it is or is not."""

    paused: bool
    changed_at: datetime


def not_an_operator() -> Forbidden:
    """The answer to everybody else."""
    return Forbidden("not_an_operator", "This is for the market's operators.")
