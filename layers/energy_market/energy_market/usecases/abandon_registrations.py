"""Give up registrations of devices that died half-way and that no later registration has cleared for a day."""

from typing import Final

from energy_market.database import Database
from energy_market.logs import log
from energy_market.postgres import devices

MAX_DEVICES: Final = 500  # a sweep


def abandon_registrations(database: Database) -> None:
    """Mark them 'Removed'. What AWS IoT may have of them, a thing named by the id, is left to whoever reads the log."""
    with database.transaction() as conn:
        abandoned = devices.abandon(conn, limit=MAX_DEVICES)
    for device_id in abandoned:
        log("device.registration.abandoned", level="error", device_id=device_id)
