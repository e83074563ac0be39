"""Simulated homes: what each uses, makes, stores, offers and wants. Pure: no clock, no network, no threads.

All energy is whole watt-hours, so that the books of a home can be compared with the market's to the last one.
A home with a roof has a battery in two accounts: the *own* account serves its own evening and is filled first; what is
above it is the *sellable* account, which only grows by surplus and falls by deliveries, and by the home's own use of
what it has neither offered nor promised. So an offer, once made, can always be kept.
"""

import datetime as dt
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from profiles import QUARTER_HOUR_S, Profiles

MILLIJOULES_PER_WH: Final = 3_600_000

FEED_IN_MICRO: Final = 80_000  # tokens per kWh, in millionths: what the grid pays for surplus
TARIFF_MICRO: Final = 320_000  # what the grid asks for a deficit
PRICE_STEP_MICRO: Final = 1_000
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
class Household:
    """What does not change about a home. `reserve_wh` is the part of the battery it keeps for itself."""

    name: str
    annual_kwh: int
    peak_w: int
    orientation: str
    battery_wh: int
    reserve_wh: int
    ask_floor_micro: int
    bid_ceiling_micro: int

    def __post_init__(self) -> None:
        """A home that could not exist is a mistake of whoever made it."""
        if self.annual_kwh <= 0 or self.peak_w < 0 or not 0 <= self.reserve_wh <= self.battery_wh:
            raise ValueError(f"{self.name}: sizes out of range")
        if not FEED_IN_MICRO <= self.ask_floor_micro < self.bid_ceiling_micro <= TARIFF_MICRO:
            raise ValueError(f"{self.name}: it must sell above the feed-in price and buy below the tariff")

    @property
    def is_donor(self) -> bool:
        """Only stored energy can be reserved for a buyer, so only a home with a battery sells."""
        return self.battery_wh > 0


def community(count: int, *, seed: int) -> list[Household]:
    """`count` homes, every second one with a roof and a battery; the same seed makes the same homes."""
    chance = random.Random(seed)  # noqa: S311 - sizes of houses, not secrets
    homes = []
    for number in range(count):
        has_roof = number % 2 == 0
        battery_wh = chance.randrange(8_000, 14_001, 500) if has_roof else 0
        homes.append(
            Household(
                name=f"home-{number + 1:02}",
                annual_kwh=chance.randrange(2_500, 4_001, 100) if has_roof else chance.randrange(4_000, 7_001, 100),
                peak_w=chance.randrange(5_000, 10_001, 500) if has_roof else 0,
                orientation=chance.choice(("east", "south", "west")),
                battery_wh=battery_wh,
                reserve_wh=battery_wh // 4,
                ask_floor_micro=FEED_IN_MICRO + chance.randrange(10_000, 50_001, PRICE_STEP_MICRO),
                bid_ceiling_micro=TARIFF_MICRO - chance.randrange(10_000, 50_001, PRICE_STEP_MICRO),
            )
        )
    return homes


@dataclass(slots=True, kw_only=True)
class EnergyBooks:
    """One home's energy, in watt-hours since the start; `battery` starts half full.

    Always: start + sun + bought + imported = used + sold + exported + stored + credit.
    `credit` is energy bought and delivered that the home has not used yet (its account with the street).
    """

    household: Household
    profiles: Profiles
    at: dt.datetime
    own_wh: int = 0
    sellable_wh: int = 0
    held_wh: int = 0  # offered or promised; the home's own use leaves it alone
    credit_wh: int = 0
    start_wh: int = 0
    used_wh: int = 0
    sun_wh: int = 0
    bought_wh: int = 0
    sold_wh: int = 0
    imported_wh: int = 0
    exported_wh: int = 0
    power_w: int = 0
    _load_rest_mj: int = 0
    _sun_rest_mj: int = 0
    _capacity_wh: int = field(init=False)

    def __post_init__(self) -> None:
        """Begin with the reserve full and the rest of the battery half full."""
        self._capacity_wh = self.household.battery_wh - self.household.reserve_wh
        self.own_wh = self.household.reserve_wh
        self.sellable_wh = self._capacity_wh // 2
        self.start_wh = self.own_wh + self.sellable_wh

    def advance(self, to: dt.datetime) -> None:
        """Let time pass until `to`: the sun shines, the home uses; quarter hour by quarter hour."""
        while self.at < to:
            into_quarter_s = (self.at.minute * 60 + self.at.second) % QUARTER_HOUR_S
            step_s = min(QUARTER_HOUR_S - into_quarter_s, int((to - self.at).total_seconds()))
            if step_s <= 0:
                return  # less than a second: it counts with the next call
            load_mw = self.profiles.load_mw(self.household.annual_kwh, self.at)
            sun_mw = self.profiles.sun_mw(self.household.peak_w, self.household.orientation, self.at)
            used_wh, self._load_rest_mj = divmod(self._load_rest_mj + load_mw * step_s, MILLIJOULES_PER_WH)
            sun_wh, self._sun_rest_mj = divmod(self._sun_rest_mj + sun_mw * step_s, MILLIJOULES_PER_WH)
            self.power_w = load_mw // 1000
            self.used_wh += used_wh
            self.sun_wh += sun_wh
            self._balance(sun_wh - used_wh)
            self.at += dt.timedelta(seconds=step_s)

    def _balance(self, surplus_wh: int) -> None:
        if surplus_wh >= 0:
            own = min(surplus_wh, self.household.reserve_wh - self.own_wh)
            sellable = min(surplus_wh - own, self._capacity_wh - self.sellable_wh)
            self.own_wh += own
            self.sellable_wh += sellable
            self.exported_wh += surplus_wh - own - sellable
            return
        missing_wh = -surplus_wh
        for account in ("credit_wh", "own_wh"):
            taken = min(missing_wh, getattr(self, account))
            setattr(self, account, getattr(self, account) - taken)
            missing_wh -= taken
        unheld = min(missing_wh, max(0, self.sellable_wh - self.held_wh))
        self.sellable_wh -= unheld
        self.imported_wh += missing_wh - unheld

    def deliver(self, energy_wh: int) -> int:
        """Give away up to `energy_wh` of the sellable account; the watt-hours that really left the battery."""
        given_wh = min(energy_wh, self.sellable_wh)
        self.sellable_wh -= given_wh
        self.sold_wh += given_wh
        return given_wh

    def receive(self, energy_wh: int) -> None:
        """Take in energy that a neighbour delivered."""
        self.bought_wh += energy_wh
        self.credit_wh += energy_wh

    def unbalanced_wh(self) -> int:
        """What the books cannot explain; 0 unless there is a mistake."""
        came = self.start_wh + self.sun_wh + self.bought_wh + self.imported_wh
        went = self.used_wh + self.sold_wh + self.exported_wh
        return came - went - self.own_wh - self.sellable_wh - self.credit_wh

    @property
    def battery_percent(self) -> int:
        """How full the battery is, in percent; 0 for a home without one."""
        if not self.household.battery_wh:
            return 0
        return 100 * (self.own_wh + self.sellable_wh) // self.household.battery_wh

    def need_wh(self, ahead: dt.timedelta) -> int:
        """What will be missing over the time ahead, by the profiles, after sun, credit and battery."""
        deficit_mj = 0
        quarter = dt.timedelta(seconds=QUARTER_HOUR_S)
        for number in range(max(1, int(ahead / quarter))):
            at = self.at + number * quarter
            load_mw = self.profiles.load_mw(self.household.annual_kwh, at)
            sun_mw = self.profiles.sun_mw(self.household.peak_w, self.household.orientation, at)
            deficit_mj += max(0, load_mw - sun_mw) * QUARTER_HOUR_S
        stored_wh = self.credit_wh + self.own_wh + max(0, self.sellable_wh - self.held_wh)
        return max(0, deficit_mj // MILLIJOULES_PER_WH - stored_wh)


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
