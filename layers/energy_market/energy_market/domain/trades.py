"""A trade: so much energy of one ask for one bid, at one price.

Pending -> Locked -> Submitted -> Confirmed, or Failed with a reason. It is settled only after the donor's
device has reserved the energy.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

TradeStatus = Literal["Pending", "Locked", "Submitted", "Confirmed", "Failed"]
FailReason = Literal["lock_rejected", "lock_timeout", "insufficient_escrow", "settlement_expired", "chain_refused"]

REASON_SENTENCES: Final[dict[str, str]] = {
    "lock_rejected": "The donor's device refused to reserve the energy.",
    "lock_timeout": "The donor's device did not answer in time.",
    "insufficient_escrow": "The buyer's escrow did not cover the amount.",
    "settlement_expired": "The trade could not be paid in time.",
    "chain_refused": "The settlement contract refused the trade.",
    "cancelled_by_owner": "Cancelled by its owner.",
    "expired": "Its time in force has passed.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trade:
    """A trade as it stands. Energy in Wh, price in micro-tokens per kWh, amount in nano-tokens."""

    id: UUID
    seq: int
    sell_order_id: UUID
    buy_order_id: UUID
    donor_id: UUID
    recipient_id: UUID
    device_id: UUID
    zone: str
    energy_wh: int
    price_micro: int
    amount_nano: int
    status: TradeStatus
    reason: str | None
    blockchain_hash: str | None
    matched_at: datetime
    locked_at: datetime | None
    submitted_at: datetime | None
    confirmed_at: datetime | None
    failed_at: datetime | None
    delivery: Literal["Owed", "Started", "Delivered"] | None
    delivered_wh: int
