"""Removes certificates and things from AWS IoT that should no longer exist; runs every few minutes."""

from functools import cache
from typing import Final

from energy_market import config
from energy_market.aws.registry import DeviceRegistry
from energy_market.database import Database
from energy_market.logs import log
from energy_market.usecases.tidy_device import tidy_devices

DATABASE_S: Final = 220.0  # of the function's 240


@cache
def _database() -> Database:
    return Database(config.database_url())


@cache
def _registry() -> DeviceRegistry:
    return DeviceRegistry(config.device_policy())


def sweep(_event: object, _context: object) -> dict[str, int]:
    """Tidy the devices that are due. Raises what the database raises: the next sweep is the retry."""
    _database().start_deadline(DATABASE_S)
    tidied = tidy_devices(_database(), _registry())
    log("devices.tidied", tidied=tidied)
    return {"tidied": tidied}
