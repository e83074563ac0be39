"""End all certificates of a device: its key is in the wrong hands, or the device is."""

from uuid import UUID

from energy_market.database import Database
from energy_market.domain.errors import NotFound
from energy_market.logs import log
from energy_market.postgres import certificates, devices
from energy_market.usecases.tidy_device import Tidies, tidy_device


def revoke_certificates(database: Database, registry: Tidies, device_id: UUID, *, owner_id: UUID | None) -> None:
    """Nothing that is said under them counts from now on, and the device is not matched before it has another.

    What it has promised stays promised: with a certificate of its own again it goes on, and what it does not deliver in
    time is short. `owner_id`: whose device it must be; None for an operator. Raises NotFound. What AWS IoT still has of
    them when it fails is the sweep's.
    """
    with database.transaction() as conn:
        if not devices.hold_owned(conn, device_id, owner_id):
            raise unknown_device()
        devices.put_offline(conn, device_id)
        ended = certificates.end(conn, device_id)
    log("certificates.revoked", device_id=device_id, certificates=ended)
    tidy_device(database, registry, device_id)


def unknown_device() -> NotFound:
    """There is no such device, or it is somebody else's, which is nobody's to know."""
    return NotFound("unknown_device", "You have no device with this id.")
