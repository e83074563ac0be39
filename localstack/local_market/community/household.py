"""The homes of a community: their sizes, roofs, batteries and prices, drawn from a seed."""

import random
from dataclasses import dataclass
from typing import Final

FEED_IN_MICRO: Final = 80_000  # tokens per kWh, in millionths: what the grid pays for surplus
TARIFF_MICRO: Final = 320_000  # what the grid asks for a deficit
PRICE_STEP_MICRO: Final = 1_000


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
