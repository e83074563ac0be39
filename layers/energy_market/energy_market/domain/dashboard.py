"""A user's purchases and sales. Only confirmed trades count as energy moved and tokens paid."""

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Energy in Wh, tokens in nano-tokens."""

    bought_wh: int
    sold_wh: int
    spent_nano: int
    earned_nano: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Day(Totals):
    """Totals of one day (UTC); `complete` once the day is over."""

    day: date
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """One user's figures; `days` are the last thirty, today last."""

    totals: Totals
    open_orders: int
    trades: dict[str, int]  # number of trades by status
    days: list[Day]
