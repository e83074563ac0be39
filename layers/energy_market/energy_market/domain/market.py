"""The market as everybody sees it: depth, prices, candles. Energy in Wh, prices in micro-tokens per kWh."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

ChainHalt = Literal["chain_unreachable", "chain_unfit"]
"""Reason why nothing is matched: no sweep could reach the chain lately, or the chain cannot pay trades."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """All open orders of one side at one price."""

    price_micro: int
    energy_wh: int
    orders: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceSummary:
    """The market's current prices. Volume: trades confirmed in the last 24 hours. Supply and demand: open orders."""

    last_micro: int | None
    last_at: datetime | None
    best_bid_micro: int | None
    best_ask_micro: int | None
    volume_24h_wh: int
    supply_wh: int
    demand_wh: int
    paused: bool
    halted: ChainHalt | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candle:
    """All trades confirmed in one interval.

    `complete`: the interval is over, and no confirmation that belongs to it is still being written.
    """

    start: datetime
    open_micro: int
    high_micro: int
    low_micro: int
    close_micro: int
    volume_wh: int
    trades: int
    complete: bool
