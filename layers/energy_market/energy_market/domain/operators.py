"""Operators of the market: users who sign in with a wallet that the configuration names."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from energy_market.domain.errors import Forbidden

ActKind = Literal["market.pause", "market.resume", "user.kyc_status", "device.revoke", "dead_letters.replay"]
MAX_REASON_CHARACTERS: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """The operator who acts."""

    user_id: UUID
    wallet_address: str  # EIP-55 spelling


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """An operator's act, its subject, and the reason. `before` and `after` describe the subject."""

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
    """Whether the market is paused, and when it was last paused or resumed."""

    paused: bool
    changed_at: datetime


def not_an_operator() -> Forbidden:
    """The answer to users who are not operators."""
    return Forbidden("not_an_operator", "This is for the market's operators.")
