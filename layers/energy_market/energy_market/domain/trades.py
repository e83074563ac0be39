"""A trade: an amount of energy from one ask to one bid, at one price.

Pending -> Locked -> Submitted -> Confirmed, or Failed with a reason. A trade is settled only after the donor's device
has reserved the energy. Its delivery follows: Owed -> Started -> Delivered, or Short with a reason.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

TradeStatus = Literal["Pending", "Locked", "Submitted", "Confirmed", "Failed"]
FailReason = Literal[
    "lock_rejected",
    "lock_timeout",
    "reservation_lost",
    "insufficient_escrow",
    "spending_cap",
    "over_limit",
    "settlement_expired",
    "chain_refused",
]
Delivery = Literal["Owed", "Started", "Delivered", "Short"]
ShortReason = Literal["under_delivered", "delivery_timeout", "reservation_lost", "unreported"]

UNREPORTED_AFTER_S: Final = 3_600
"""Seconds after confirmation until a delivery ends as unreported, if its device has never reported any delivery.

Until then its energy stays promised: enough time to feed 5 kWh at 5 kW before that energy may be sold again."""

# The side at fault decides what happens to the orders.

DEVICES_FAULT: Final[tuple[FailReason, ...]] = ("lock_rejected", "lock_timeout", "reservation_lost")
"""Reasons after which both orders return to the book. The device waits for its next status; repeated failures count."""
BUYERS_FAULT: Final[tuple[FailReason, ...]] = ("insufficient_escrow", "spending_cap", "over_limit")
"""Reasons after which the bid is rejected, and the ask returns to the book."""
NOBODYS_FAULT: Final[tuple[FailReason, ...]] = ("settlement_expired", "chain_refused")
"""Reasons after which both orders return. If the same pair fails repeatedly, both are rejected, to end the retries."""

MAX_TRIES_OF_A_PAIR: Final = 5
MAX_FAILURES_IN_A_ROW: Final = 3
"""Number of consecutive failures of its device at which an order is cancelled, and at which the device pauses.

Trades that were matched before a failure was noticed count as one failure together: a device that is away for a minute
fails ten trades once. A confirmed trade ends the row of failures. An answer `locked` does not: a device that locks and
then loses the reservation holds up the bid just as long."""
FIRST_PAUSE_S: Final = 60
"""Seconds that a device pauses after `MAX_FAILURES_IN_A_ROW`; each further failure doubles the pause."""
MAX_PAUSE_S: Final = 3_600
"""Maximum seconds of a device's pause."""
FAILURES_FORGOTTEN_AFTER_S: Final = 86_400
"""Seconds after which a device's failure no longer counts."""

REASON_SENTENCES: Final[dict[str, str]] = {
    "lock_rejected": "The donor's device refused to reserve the energy.",
    "lock_timeout": "The donor's device did not answer in time.",
    "insufficient_escrow": "The buyer's escrow did not cover the amount.",
    "spending_cap": "The buyer's own cap on spending did not leave room for the amount.",
    "over_limit": "The amount is more than the contract lets all trades together move in an hour.",
    "settlement_expired": "The trade could not be paid in time.",
    "chain_refused": "The settlement contract refused the trade.",
    "under_delivered": "The donor's device delivered less than was traded.",
    "delivery_timeout": "The donor's device did not deliver all of it in time.",
    "reservation_lost": "The donor's device no longer held the energy.",
    "unreported": "The donor's device does not report deliveries, so nobody can tell how much it delivered.",
    "cancelled_by_owner": "Cancelled by its owner.",
    "device_removed": "Its device was removed.",
    "expired": "Its time in force has passed.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trade:
    """A trade's current state. Energy in Wh, price in micro-tokens per kWh, amount in nano-tokens."""

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
    delivery: Delivery | None
    delivery_reason: ShortReason | None
    deliver_by: datetime | None
    delivered_wh: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """A delivery that ended with less energy than was traded: only `delivered_wh`."""

    transaction_id: UUID
    device_id: UUID
    reason: ShortReason
    delivered_wh: int
