"""The commands that a device is sent for a trade."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from energy_market.domain import topics


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """Reserve the energy of a trade, release it, or deliver it. `expires_at` is the lock's deadline."""

    kind: Literal["lock", "unlock", "transfer"]
    device_id: UUID
    transaction_id: UUID
    sell_order_id: UUID
    energy_wh: int
    expires_at: datetime | None

    def __post_init__(self) -> None:
        """Refuse a lock that never ends."""
        if self.kind == "lock" and self.expires_at is None:
            raise ValueError("a lock has a deadline before it is published")

    @property
    def topic(self) -> str:
        """The topic on which the device receives it."""
        return topics.of(topics.TO_DEVICES[self.kind], self.device_id)
