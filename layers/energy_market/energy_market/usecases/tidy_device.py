"""Bring AWS IoT in line with the database: keep a device's valid certificates, delete all others."""

from collections.abc import Collection
from typing import Final, Protocol
from uuid import UUID

from energy_market.database import Database
from energy_market.logs import log, metric
from energy_market.postgres import certificates

MAX_DEVICES: Final = 50  # a sweep


class Tidies(Protocol):
    """A registry that can delete certificates and things."""

    def tidy(self, device_id: UUID, *, kept: Collection[str], ended: Collection[str], is_removed: bool) -> None:
        """Delete a thing's certificates except those `kept`; for a removed device, delete the thing as well."""


def tidy_device(database: Database, registry: Tidies, device_id: UUID) -> bool:
    """Delete the certificates that a device should not have, if that is due; False if AWS failed.

    A certificate ends in the database first, after which it no longer counts; then this is called. If it fails, or its
    process dies, a sweep repeats it ten minutes later. A registration that was never completed is cleaned up here: its
    thing, and its certificate, which could never connect.
    """
    with database.transaction() as conn:
        due = certificates.claim(conn, device_id)
    if due is None:
        return True
    try:
        registry.tidy(device_id, kept=due.kept, ended=due.ended, is_removed=due.is_removed)
    except Exception as error:  # noqa: BLE001 - whatever AWS raises, the next sweep tries again
        log("device.not_tidied", level="error", device_id=device_id, error=type(error).__name__)
        metric("DevicesNotTidied", 1)
        return False
    with database.transaction() as conn:
        certificates.tidied(conn, due)
    log("device.tidied", device_id=device_id, kept=len(due.kept), ended=len(due.ended), removed=due.is_removed)
    return True


def tidy_devices(database: Database, registry: Tidies) -> int:
    """Tidy the devices that are due, the longest overdue first. Returns how many were tidied."""
    with database.transaction() as conn:
        due = certificates.due(conn, limit=MAX_DEVICES)
    return sum(tidy_device(database, registry, device_id) for device_id in due)
