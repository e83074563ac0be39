"""What a home offers and wants. Pure: no clock, no network, no threads."""

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from local_market.community.energy_books import EnergyBooks
from local_market.community.household import PRICE_STEP_MICRO, Household

SPREAD_MICRO: Final = 100_000  # how far an opening price stays from the price a home would still accept
CONCESSIONS: Final = 3  # after so many stale orders in a row the price is the reservation price

LOT_WH: Final = 250  # the standard lot: all-or-none orders of one size find each other
LARGE_LOTS: Final = 3  # every so many orders one is large and may be filled in parts
LARGE_ASK_WH: Final = 900
LARGE_BID_WH: Final = 600
OPEN_ORDERS: Final = 4  # a home's limit, each side
ORDERS_A_ROUND: Final = 2

Side = Literal["buy", "sell"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnOrder:
    """An order of the home's own, as the market last described it, and for how long it has stood."""

    order_id: str
    side: Side
    open_wh: int
    under_way_wh: int
    filled_wh: int
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An order that a home wants to place."""

    side: Side
    energy_wh: int
    price_micro: int
    all_or_none: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a home does in a round."""

    place: tuple[Draft, ...] = ()
    cancel: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class Trader:
    """A home's way to trade: how often it has conceded on each side, and how many orders it has placed.

    A first offer keeps a distance from what the home would still accept; each order that grew stale brings the next
    one closer, so that a market without takers ends in trades rather than in silence.
    """

    household: Household
    patience_s: float
    placed: int = 0
    concessions: dict[str, int] = field(default_factory=lambda: {"buy": 0, "sell": 0})

    def decide(self, *, books: EnergyBooks, orders: Sequence[OwnOrder], ahead: dt.timedelta) -> Decision:
        """Cancel what is stale; offer what is stored and neither offered nor promised; bid for what will be missing."""
        stale = [order for order in orders if order.open_wh and order.age_s >= self.patience_s]
        for side in {order.side for order in stale}:
            self.concessions[side] = min(CONCESSIONS, self.concessions[side] + 1)
        standing = [order for order in orders if order not in stale]
        drafts: list[Draft] = []
        if self.household.is_donor:
            # Stale ones are held still: whether the cancel or a match came first is known a round later.
            free_wh = books.sellable_wh - books.held_wh
            drafts += self._drafts("sell", free_wh, standing, fullness=self._fullness(books))
        wanted_wh = books.need_wh(ahead) - sum(o.open_wh + o.under_way_wh for o in orders if o.side == "buy")
        if not drafts:  # never on both sides in one round
            drafts += self._drafts("buy", wanted_wh, standing, fullness=0.0)
        return Decision(place=tuple(drafts), cancel=tuple(order.order_id for order in stale))

    def filled(self, side: Side) -> None:
        """A trade came about on this side: there is no hurry to concede more."""
        self.concessions[side] = max(0, self.concessions[side] - 1)

    def price_micro(self, side: Side, *, fullness: float) -> int:
        """Today's price: reservation price, kept at a distance that concessions and a full battery shrink."""
        distance = SPREAD_MICRO * (1 - self.concessions[side] / CONCESSIONS)
        if side == "sell":
            price = self.household.ask_floor_micro + distance * (1 - fullness)
        else:
            price = self.household.bid_ceiling_micro - distance
        return round(price / PRICE_STEP_MICRO) * PRICE_STEP_MICRO

    def _fullness(self, books: EnergyBooks) -> float:
        return books.sellable_wh / max(1, self.household.battery_wh - self.household.reserve_wh)

    def _drafts(self, side: Side, energy_wh: int, standing: Iterable[OwnOrder], *, fullness: float) -> list[Draft]:
        room = OPEN_ORDERS - sum(1 for order in standing if order.side == side and order.open_wh)
        price_micro = self.price_micro(side, fullness=fullness)
        drafts: list[Draft] = []
        while energy_wh >= LOT_WH and len(drafts) < min(room, ORDERS_A_ROUND):
            large_wh = LARGE_ASK_WH if side == "sell" else LARGE_BID_WH
            is_large = (self.placed + 1) % LARGE_LOTS == 0 and energy_wh >= large_wh
            size_wh = large_wh if is_large else LOT_WH
            drafts.append(Draft(side=side, energy_wh=size_wh, price_micro=price_micro, all_or_none=not is_large))
            self.placed += 1
            energy_wh -= size_wh
        return drafts


def held_wh(orders: Iterable[OwnOrder], *, sold_wh: int) -> int:
    """What a home has offered, promised or sold, less what it has delivered already: its own use must not touch it."""
    return max(0, sum(o.open_wh + o.under_way_wh + o.filled_wh for o in orders if o.side == "sell") - sold_wh)
