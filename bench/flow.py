"""The order flow that the bench is about: the same for everybody who is compared, from a fixed seed."""

import random
from typing import Final, NamedTuple

SEED: Final = 28
DONORS: Final = 1_000
RECIPIENTS: Final = 1_000


class Placed(NamedTuple):
    """One order as it arrives. Donors (users and devices 0 to 999) only sell, recipients (1,000 to 1,999) only buy."""

    is_ask: bool
    energy_wh: int
    price_micro: int
    arrival: int
    user: int


def order_flow(count: int, *, seed: int = SEED) -> list[Placed]:
    """Orders of 0.1 to 20 kWh in steps of 0.1 kWh, at prices in steps of 0.001 tokens.

    Half of them ask 0.120 to 0.319 tokens per kWh, half bid 0.080 to 0.279: of 100,000, 20,120 pairs match all-or-none.
    """
    chance = random.Random(seed)
    orders = []
    for arrival in range(1, count + 1):
        is_ask = chance.random() < 0.5  # noqa: PLR2004
        energy_wh = 100 * chance.randint(1, 200)
        price_micro = 1000 * (chance.randint(120, 319) if is_ask else chance.randint(80, 279))
        user = chance.randrange(DONORS) if is_ask else DONORS + chance.randrange(RECIPIENTS)
        orders.append(Placed(is_ask, energy_wh, price_micro, arrival, user))
    return orders
