"""Remove a device from the market, whoever owns it."""

from uuid import UUID

from energy_market.database import Database
from energy_market.domain.operators import Operator
from energy_market.postgres import devices, operator_acts
from energy_market.usecases.remove_device import expel_device
from energy_market.usecases.revoke_certificates import unknown_device
from energy_market.usecases.tidy_device import Tidies, tidy_device


def revoke_device(database: Database, registry: Tidies, operator: Operator, *, device_id: UUID, reason: str) -> None:
    """End its certificates and remove it, whatever it owes: see `expel_device`. Raises NotFound.

    The act is recorded first, and may be repeated: if the device is already removed, only its remains in AWS IoT are
    deleted.
    """
    with database.transaction() as conn:
        if not devices.hold_owner(conn, device_id, None):
            raise unknown_device()
        is_there = devices.hold_owned(conn, device_id, None)
        operator_acts.add(conn, operator, "device.revoke", subject=str(device_id), reason=reason)
    if is_there:
        expel_device(database, registry, device_id)
    else:
        tidy_device(database, registry, device_id)
