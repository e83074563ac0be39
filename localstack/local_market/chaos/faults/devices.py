"""Faults of the devices."""

import contextlib
import random
from collections.abc import Iterator

from local_market.chaos.world import ChaosWorld


@contextlib.contextmanager
def device_killed(world: ChaosWorld, chance: random.Random) -> Iterator[None]:
    """`kill -9` of a device, whatever it is at; its state file and its hardware stay."""
    device = world.any_device(chance)
    with world.turn(device.name):
        device.kill()
        try:
            yield
        finally:
            device.run()


@contextlib.contextmanager
def device_silent(world: ChaosWorld, chance: random.Random) -> Iterator[None]:
    """A device says nothing for a while, perhaps beyond a lock's deadline, and goes on where it was."""
    device = world.any_device(chance)
    with world.turn(device.name), device.frozen():
        yield


@contextlib.contextmanager
def device_clock_wrong(world: ChaosWorld, chance: random.Random) -> Iterator[None]:
    """A device is started again with a clock that is minutes ahead or behind."""
    device = world.any_device(chance)
    with world.turn(device.name):
        device.stop()
        device.run(skew_s=chance.choice((-1, 1)) * chance.uniform(20, 300))
        try:
            yield
        finally:
            device.stop()
            device.run()
