"""End all certificates of a device: the key or the device is in the wrong hands."""

from uuid import UUID

from energy_market.database import Database
from energy_market.domain.errors import NotFound
from energy_market.logs import log
from energy_market.postgres import certificates, devices
from energy_market.usecases.tidy_device import Tidies, tidy_device


def revoke_certificates(database: Database, registry: Tidies, device_id: UUID, *, owner_id: UUID | None) -> None:
    """End them: messages under them no longer count, and the device is not matched before it has another certificate.

    Its promises stay: with a new certificate it continues, and energy that it does not deliver in time falls short.
    `owner_id`: the owner that it must have; None for an operator. Raises NotFound. If AWS IoT fails, the next sweep
    removes them there.
    """
    with database.transaction() as conn:
        if not devices.hold_owned(conn, device_id, owner_id):
            raise unknown_device()
        devices.put_offline(conn, device_id)
        ended = certificates.end(conn, device_id)
    log("certificates.revoked", device_id=device_id, certificates=ended)
    tidy_device(database, registry, device_id)


def unknown_device() -> NotFound:
    """The answer for a device that does not exist or is another user's, without revealing which."""
    return NotFound("unknown_device", "You have no device with this id.")
