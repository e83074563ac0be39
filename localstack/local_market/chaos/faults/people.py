"""Faults of people at the API."""

import contextlib
import random
import threading
import uuid
from collections.abc import Iterator
from typing import Final

from energy_market_client.errors import ApiError, UnreachableError
from local_market.chaos.world import ChaosWorld

REPETITIONS: Final = 8


@contextlib.contextmanager
def orders_repeated(world: ChaosWorld, chance: random.Random) -> Iterator[None]:
    """Somebody sends one order many times at once, under one key: there is one order."""
    key = str(uuid.UUID(int=chance.getrandbits(128)))
    ids: list[str] = []
    with world.turn("visitor"):
        world.visitor.renew()

    def place() -> None:
        with contextlib.suppress(UnreachableError, ApiError):
            client = world.visitor.another()
            try:
                answer = client.place(side="buy", size_wh=250, price_micro=1, all_or_none=True, key=key)
            finally:
                client.close()
            ids.append(str(answer["id"]))

    threads = [threading.Thread(target=place, name="order", daemon=True) for _ in range(REPETITIONS)]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()
    if len(set(ids)) > 1:
        world.violations.append(f"one order under one key became {len(set(ids))} orders: {sorted(set(ids))}")
