"""Faults of the links between functions, devices and parts."""

import random
from collections.abc import Callable
from contextlib import AbstractContextManager

from local_market.chaos.injecting import Injector
from local_market.chaos.links import Link, Trouble
from local_market.chaos.world import ChaosWorld


def trouble(link: Callable[[ChaosWorld], Link], trouble: Trouble) -> Injector:
    """A link that fails in this way."""

    def inject(world: ChaosWorld, _chance: random.Random) -> AbstractContextManager[None]:
        return link(world).trouble(trouble)

    return inject


def slow(link: Callable[[ChaosWorld], Link], least_s: float, most_s: float) -> Injector:
    """A link that holds up every chunk for a while."""

    def inject(world: ChaosWorld, chance: random.Random) -> AbstractContextManager[None]:
        return link(world).slow(chance.uniform(least_s, most_s))

    return inject
