"""Nodes of the network that carries the devices' messages."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

MAX_NODES_OF_A_USER: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkNode:
    """A node. `uptime` in percent, `earnings_nano` in nano-tokens."""

    id: UUID
    operator_id: UUID
    location: str
    uptime: Decimal
    packets_routed: int
    earnings_nano: int
    created_at: datetime
