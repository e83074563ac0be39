"""Bring AWS IoT in line with the database: keep a device's valid certificates, delete all others."""

from collections.abc import Collection
from typing import Final, Protocol
from uuid import UUID

from energy_market.database import Database
from energy_market.logs import log, metric
from energy_market.postgres import certificates

MAX_DEVICES: Final = 50  # a sweep


class Tidies(Protocol):
    """Who can delete certificates and things."""

    def tidy(self, device_id: UUID, *, kept: Collection[str], ended: Collection[str], is_removed: bool) -> None:
        """Delete a thing's certificates but those `kept`, and of a removed device the thing."""


def tidy_device(database: Database, registry: Tidies, device_id: UUID) -> bool:
    """Delete the certificates that a device should not have, if that is due; False if AWS would not.

    Whoever ends a certificate says so in the database first, from when on it counts for nothing, and calls this next.
    If that fails, or its process dies, a sweep comes to it again ten minutes later. A registration that nobody has
    brought to an end is ended here: its thing, and a certificate that no door was opened for.
    """
    with database.transaction() as conn:
        due = certificates.claim(conn, device_id)
    if due is None:
        return True
    try:
        registry.tidy(device_id, kept=due.kept, ended=due.ended, is_removed=due.is_removed)
    except Exception as error:  # noqa: BLE001 - whatever AWS has against it: the next sweep tries again
        log("device.not_tidied", level="error", device_id=device_id, error=type(error).__name__)
        metric("DevicesNotTidied", 1)
        return False
    with database.transaction() as conn:
        certificates.tidied(conn, due)
    log("device.tidied", device_id=device_id, kept=len(due.kept), ended=len(due.ended), removed=due.is_removed)
    return True


def tidy_devices(database: Database, registry: Tidies) -> int:
    """Tidy those that are due, the longest overdue first; how many were."""
    with database.transaction() as conn:
        due = certificates.due(conn, limit=MAX_DEVICES)
    return sum(tidy_device(database, registry, device_id) for device_id in due)
