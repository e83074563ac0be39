"""Orders as their owners and the market see them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from energy_market.domain.quantities import MAX_ENERGY_WH, MAX_PRICE_MICRO

MAX_OPEN_ORDERS_OF_A_USER: Final = 500

OrderType = Literal["buy", "sell"]
OrderStatus = Literal["Created", "Matched", "Executing", "Completed", "Cancelled", "Expired", "Rejected"]
Unmatchable = Literal[
    "chain_unreachable",
    "chain_unfit",
    "kyc_required",
    "no_device",
    "device_removed",
    "no_status_yet",
    "status_refused",
    "no_available_kwh",
    "device_offline",
    "device_paused",
    "device_silent",
    "device_refused",
    "device_lost_reservation",
    "no_free_energy",
    "market_paused",
    "own_orders_cross",
    "no_counterparty_of_this_size",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderTerms:
    """The terms of an order. Energy in Wh, the limit price in micro-tokens per kWh."""

    type: OrderType
    energy_wh: int
    price_micro: int
    all_or_none: bool
    expires_at: datetime | None
    device_id: UUID | None

    def __post_init__(self) -> None:
        if not 0 < self.energy_wh <= MAX_ENERGY_WH or not 0 < self.price_micro <= MAX_PRICE_MICRO:
            raise ValueError("an order's energy and price are above zero and within the market's limits")
        if self.device_id is not None and self.type != "sell":
            raise ValueError("only a sell order belongs to a device")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order's current state. Energy in Wh; filled: in confirmed trades; pending: in trades under way.

    `shown_wh`: the part that the book and the price count, as of the loop's last step: what could trade then.
    `unmatchable`: why the matcher skips an open order. It is None if the matcher does not, and for all but the owner.
    """

    id: UUID
    user_id: UUID
    device_id: UUID | None
    zone: str
    type: OrderType
    energy_wh: int
    price_micro: int
    all_or_none: bool
    expires_at: datetime | None
    created_at: datetime
    closed_at: datetime | None
    arrival: int
    status: OrderStatus
    reason: str | None
    filled_wh: int
    pending_wh: int
    remaining_wh: int
    shown_wh: int
    unmatchable: Unmatchable | None
